//! What a test does with nodes, Services and ledgers.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{Node, Service},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;

use super::{
    ApiServer, admission, decode, encode,
    fault::{Interruption, Target},
    put_namespace_if_missing,
    resource::Resource,
    store::{Key, Store},
    structural_schema::StructuralSchema,
};

const LEDGERS: Resource = Resource::NodeHostPorts;

impl ApiServer {
    /// Creates or edits a node.
    pub fn put_node(&self, node: Node) -> Node {
        self.shared.update(|inner| put_node(&mut inner.store, node))
    }

    /// Returns a node.
    pub fn node(&self, name: &str) -> Option<Node> {
        self.shared.lock().store.get(&Key::new(Resource::Nodes, "", name)).map(|node| decode(node))
    }

    /// Deletes a node, and the ledgers that it owns.
    pub fn delete_node(&self, name: &str) {
        self.shared.update(|inner| {
            let key = Key::new(Resource::Nodes, "", name);
            let node = inner.store.get(&key).cloned().unwrap_or_else(|| panic!("what is deleted is there: {key:?}"));
            inner.store.remove(&key);
            let is_owner = |owner: &Value| owner["uid"] == node["metadata"]["uid"];
            let orphans = keys_of_ledgers(&inner.store, |ledger| {
                ledger["metadata"]["ownerReferences"].as_array().into_iter().flatten().any(is_owner)
            });
            for key in &orphans {
                inner.store.remove(key);
            }
        });
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

    /// Creates or edits an object that makes pods, of the type that it names. Its namespace is created if there is none.
    pub fn put_workload(&self, object: Value) {
        let of = |resource: &Resource| {
            resource.is_workload()
                && object["kind"] == resource.kind()
                && object["apiVersion"] == resource.api_version()
        };
        let resource = Resource::ALL.into_iter().find(of).unwrap_or_else(|| panic!("no workload: {object}"));
        let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text("namespace"), text("name"));
        assert!(!namespace.is_empty() && !name.is_empty(), "a workload has a namespace and a name: {object}");
        self.shared.update(|inner| {
            put_namespace_if_missing(&mut inner.store, &namespace);
            inner.store.put(Key::new(resource, &namespace, &name), object);
        });
    }

    /// Returns the ledgers in the order of their names.
    pub fn ledgers(&self) -> Vec<Value> {
        let inner = self.shared.lock();
        inner.store.now().range(LEDGERS, None, None).map(|(_, ledger)| (**ledger).clone()).collect()
    }

    /// Returns the ledger of a node.
    pub fn ledger(&self, name: &str) -> Option<Value> {
        self.shared.lock().store.get(&Key::new(LEDGERS, "", name)).map(|ledger| (**ledger).clone())
    }

    /// Stores a whole ledger with its status, whatever the schema says: it may be older than the schema. Its type need
    /// not be given.
    pub fn put_ledger(&self, mut ledger: Value) -> Value {
        self.shared.update(|inner| {
            assert!(inner.definition.installed, "a ledger needs its definition");
            let name = ledger["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            assert!(admission::is_subdomain(&name), "a real server refuses the name {name:?}");
            ledger["apiVersion"] = LEDGERS.api_version().into();
            ledger["kind"] = LEDGERS.kind().into();
            (*inner.store.put(Key::new(LEDGERS, "", &name), ledger)).clone()
        })
    }

    /// Deletes a ledger.
    pub fn delete_ledger(&self, name: &str) {
        self.delete(&Key::new(LEDGERS, "", name));
    }

    /// Installs the `CustomResourceDefinition` of the ledgers, which is there at the start, or deletes it with all
    /// ledgers and ends their watches.
    pub fn set_ledger_resource(&self, installed: bool) {
        self.shared.update(|inner| {
            inner.definition.installed = installed;
            let orphans = if installed { Vec::new() } else { keys_of_ledgers(&inner.store, |_| true) };
            for key in &orphans {
                inner.store.remove(key);
            }
        });
        if !installed {
            // After the deletions, which the watches still see.
            self.interrupt(Target::ALL.resource(LEDGERS.plural()), Interruption::End);
        }
    }

    /// Sets the schema of the ledgers (`openAPIV3Schema`), or none to take everything. At the start it is that of
    /// `deploy/base/nodehostports.yaml`.
    pub fn set_ledger_schema(&self, schema: Option<&Value>) {
        let schema = schema.map(|schema| {
            let schema = StructuralSchema::parse(schema);
            Arc::new(schema.unwrap_or_else(|error| panic!("a real server refuses this schema: {error}")))
        });
        self.shared.update(|inner| inner.definition.schema = schema);
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

fn keys_of_ledgers(store: &Store, wanted: impl Fn(&Value) -> bool) -> Vec<Key> {
    let now = store.now();
    let ledgers = now.range(LEDGERS, None, None).filter(|(_, ledger)| wanted(ledger));
    ledgers.map(|(key, _)| key.clone()).collect()
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
