//! What a test does with nodes and Services.

use k8s_openapi::{
    api::core::v1::{Node, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    ApiServer, admission, decode, encode, put_namespace_if_missing,
    resource::Resource,
    store::{Key, Store},
};

impl ApiServer {
    /// Creates or edits a node.
    pub fn put_node(&self, node: Node) -> Node {
        self.shared.update(|inner| put_node(&mut inner.store, node))
    }

    /// Deletes a node.
    pub fn delete_node(&self, name: &str) {
        self.delete(&Key::new(Resource::Nodes, "", name));
    }

    /// Creates or edits a Service, and gives it back as it is stored. Its namespace is created if there is none.
    pub fn put_service(&self, service: Service) -> Service {
        self.shared.update(|inner| {
            let ObjectMeta { name, namespace, .. } = &service.metadata;
            let (name, namespace) = (name.clone().unwrap_or_default(), namespace.clone().unwrap_or_default());
            put_namespace_if_missing(&mut inner.store, &namespace);
            let key = Key::new(Resource::Services, &namespace, &name);
            let taken = |port, protocol: &str| holder_of_node_port(&inner.store, &key, port, protocol);
            let service = admission::admit_service(service, taken);
            let service = service.unwrap_or_else(|why| panic!("a real server refuses {namespace}/{name}: {why}"));
            decode(&inner.store.put(key, encode(&service)))
        })
    }

    /// Deletes a Service.
    pub fn delete_service(&self, namespace: &str, name: &str) {
        self.delete(&Key::new(Resource::Services, namespace, name));
    }
}

/// Creates or edits a node.
fn put_node(store: &mut Store, node: Node) -> Node {
    let node = admission::admit_node(node).unwrap_or_else(|why| panic!("a real server refuses this node: {why}"));
    let name = node.metadata.name.clone().unwrap_or_default();
    decode(&store.put(Key::new(Resource::Nodes, "", &name), encode(&node)))
}

/// Creates the node if there is none of this name.
pub(super) fn put_node_if_missing(store: &mut Store, name: &str) {
    if store.get(&Key::new(Resource::Nodes, "", name)).is_none() {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        put_node(store, Node { metadata, ..Node::default() });
    }
}

/// Finds another Service that has the node port.
fn holder_of_node_port(store: &Store, own: &Key, node_port: i32, protocol: &str) -> Option<String> {
    let others = store.now();
    let mut others = others.range(Resource::Services, None, None).filter(|(key, _)| *key != own);
    let holder = others.find(|(_, service)| {
        let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
        ports.any(|port| port["nodePort"] == node_port && port["protocol"] == protocol)
    });
    holder.map(|(key, _)| format!("{}/{}", key.namespace, key.name))
}
