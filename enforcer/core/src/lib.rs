//! Rules of the product, pure: inputs and the time go in, changes and reports come out. No system call, no map, no
//! connection and no clock.
//!
//! The same crate serves the agent, `enforcer check` and the kubectl plugin. It builds and tests without a BPF tool and
//! without root, and for hosts other than Linux. The modules follow the flow of data:
//!
//! | from | to | module |
//! | --- | --- | --- |
//! | | types that every step uses: ports, names, owners, modes, time | [`model`] |
//! | an API object | a pod or a Service, and its claims | [`pods`] |
//! | paths of cgroups | pods and containers | [`cgroups`] |
//! | all claims on one port | the claims in force, and quotas | [`arbitration`] |
//! | pods and cgroups, one by one | all of the above, kept in step | [`index`] |
//! | claims in force | the contents of the kernel's maps, and back | [`plan`] |
//! | what is in force | a file that outlives a reboot, and back | [`boot_state`] |
//! | binds, releases and dumps of sockets | holders of ports, and live conflicts | [`sockets`] |
//! | kernel events and notices | messages | [`reports`] |
//! | messages | Kubernetes Events, few enough for the API server | [`k8s_events`] |
//! | claims in force | `net.ipv4.ip_local_reserved_ports` | [`reserved_ports`] |
//! | all of the above | `enforcer status`, `explain` and `watch` | [`views`] |
//! | all of the above | the object of the API with the ports of a node | [`ledger`] |
//! | a DaemonSet | how far its rollout is | [`rollout`] |
//! | the Node, once its binds are judged | the removal of the startup taint | [`startup_taint`] |
//! | ledgers, pods and Services of all nodes | what `kubectl host-ports` answers | [`cluster`] |
//! | YAML text | documents with line numbers | [`yaml`] |
//! | files of Pod manifests | pods, and problems of the files | [`manifests`] |
//! | manifests of all kinds | conflicts, before anything is deployed | [`check`] |

pub mod arbitration;
pub mod boot_state;
pub mod cgroups;
pub mod check;
pub mod cluster;
pub mod index;
pub mod k8s_events;
pub mod ledger;
pub mod manifests;
pub mod model;
pub mod plan;
pub mod pods;
pub mod reports;
pub mod reserved_ports;
pub mod rollout;
pub mod sockets;
pub mod startup_taint;
#[cfg(test)]
mod tests;
pub mod views;
pub mod yaml;
