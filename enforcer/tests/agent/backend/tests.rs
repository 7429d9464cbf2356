//! What tests do to a real server, proved on the project's own over HTTP.

use std::time::Duration;

use tempfile::TempDir;

use super::{Backend, real::Real, start_synced};
use enforcer_core::model::namespace_label::NamespaceLabel;
use enforcer_testing::{
    agent_fixture::{AgentFixture, bind, denied, until_bind},
    apiserver::ApiServer,
    pods::Pod,
    tests,
};

use crate::Test;

pub(crate) const TESTS: &[Test] = tests![api_client_talks_to_real_server];

fn api_client_talks_to_real_server() {
    let fixture = AgentFixture::new();
    let server = ApiServer::start();
    let folder = TempDir::new().expect("a folder");
    // Who may do all that is another one than the agent.
    let real = Real::connect(&server.kubeconfig_of_admin(folder.path()), &server.kubeconfig(folder.path()));
    assert!(real.description().starts_with("kube-apiserver v1.34.0 at http://127.0.0.1:"), "{}", real.description());
    let wanted = Pod::new("owner").namespace("team").ports("20080");
    let owner = real.put(&wanted);
    assert_ne!(owner.uid_text(), wanted.uid_text(), "UIDs are the server's to give");
    let stranger = real.put(&Pod::new("stranger").namespace("other"));
    let mut agent = start_synced(&fixture, &real, &[]);
    let (mut owners, mut strangers) = (fixture.worker(&owner), fixture.worker(&stranger));
    until_bind(&mut strangers, 20080, denied());
    assert_eq!(owners.bind(&bind(20080)), 0);
    assert_eq!(agent.wait_for_event("bind", "other/stranger")["container"], "server", "the status is kept");

    assert_eq!(real.put(&owner.clone().ports("20081")).uid_text(), owner.uid_text());
    until_bind(&mut strangers, 20081, denied());
    assert_eq!(strangers.bind(&bind(20080)), 0);
    real.label("other", NamespaceLabel::Mode, Some("audit"));
    until_bind(&mut strangers, 20081, 0);
    real.label("other", NamespaceLabel::Mode, None);
    until_bind(&mut strangers, 20081, denied());

    real.ask_to_go(&owner, Duration::from_secs(30));
    real.put(&owner.clone().ports("20081 20082"));
    until_bind(&mut strangers, 20082, denied());
    assert_eq!(owners.bind(&bind(20081)), 0, "it is there until it is deleted for good");
    real.delete(&owner);
    until_bind(&mut strangers, 20081, 0);
    real.put(&Pod::new("last").ports("20083"));
    until_bind(&mut strangers, 20083, denied());
    drop(real);
    until_bind(&mut strangers, 20083, 0);
}
