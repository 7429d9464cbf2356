//! Lists, page by page: neither the server nor this program holds all of them at once.

use std::fmt::Debug;

use kube::{Api, api::ListParams};
use serde::de::DeserializeOwned;

/// Most objects of a page, as kubectl has it.
const PAGE: u32 = 500;

/// Calls `with` for each page of a list. A list whose place in the server's history is lost goes on with a newer one: what
/// changed meanwhile may be missing, and nothing comes twice.
///
/// # Errors
///
/// If a page cannot be read.
pub async fn for_each_page<K>(api: &Api<K>, params: ListParams, mut with: impl FnMut(Vec<K>)) -> Result<(), kube::Error>
where
    K: Clone + Debug + DeserializeOwned,
{
    let mut params = params.limit(PAGE);
    loop {
        let page = match api.list(&params).await {
            Ok(page) => page,
            Err(kube::Error::Api(status)) if status.code == 410 && params.continue_token.is_some() => {
                let next = status.metadata.as_ref().and_then(|metadata| metadata.continue_.clone());
                match next.filter(|next| params.continue_token.as_ref() != Some(next)) {
                    Some(next) => {
                        params.continue_token = Some(next);
                        continue;
                    }
                    None => return Err(kube::Error::Api(status)),
                }
            }
            Err(error) => return Err(error),
        };
        with(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(()),
        }
    }
}
