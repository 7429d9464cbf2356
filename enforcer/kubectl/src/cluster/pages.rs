//! Lists with a progress line, and refusals as sentences.

use std::fmt::Debug;

use enforcer_check::pages::for_each_page;
use kube::{Api, api::ListParams};
use serde::de::DeserializeOwned;

use super::{
    progress::Progress,
    refusal::{Refusal, Resource},
};

/// Calls `with` for each object of a list.
pub(crate) async fn for_each<K>(
    api: &Api<K>,
    resource: Resource,
    params: ListParams,
    progress: &Progress,
    mut with: impl FnMut(K),
) -> Result<(), Refusal>
where
    K: Clone + Debug + DeserializeOwned,
{
    let mut count = 0;
    let read = for_each_page(api, params, |page| {
        count += page.len();
        page.into_iter().for_each(&mut with);
        progress.show(count, resource.as_str());
    });
    read.await.map_err(|error| Refusal::of(&error, resource))
}
