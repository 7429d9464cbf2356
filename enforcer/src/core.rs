//! The rules of the product, pure: inputs and the time go in, changes and notices come out. No system call, no map, no
//! connection and no clock in here.
//!
//! | from | to | in |
//! | --- | --- | --- |
//! | a pod's annotation | ports | [`annotation`] |
//! | an API object | the facts of a pod that matter | [`pod`] |
//! | a pod | its claims | [`claims`] |
//! | who has how much | what there is still room for | [`room`] |
//! | all claims on one port | which are in force | [`arbiter`] |
//! | the claims in force | what the kernel's maps hold | [`plan`] |
//! | pods and cgroups, one by one | all of the above, kept in step | [`index`] |
//! | an owner | what the next agent must know of it, and back | [`record`], [`recall`] |
//! | what the kernel tells | sentences | [`report`] |
//! | manifests of all kinds | what cannot work, before anything is deployed | [`check`] |
//! | binds, releases and dumps of sockets | who holds what, and conflicts that exist | [`holders`] |
//! | claims and the kernel's reserved ports | what to write, and what to remember | [`reserved`] |
//! | a question about one port | who owns and holds it, and what would happen to whom | [`explain`] |
//! | all of that | what `enforcer status` and `enforcer watch` show | [`status`], [`view`], [`attempt`] |
//! | what is told of one pod | what of it is held back, so that it fills no disk | [`restraint`] |
//! | what an agent finds, and what it is to do | for how long nothing was denied that was to be | [`unenforced`] |
//! | sentences | Events in the cluster, few enough for its API server | [`events`] |

pub mod address;
pub mod annotation;
pub mod arbiter;
pub mod attempt;
pub mod cgroup;
pub mod cgroup_tree;
pub mod check;
pub mod claims;
pub mod digest;
pub mod events;
pub mod explain;
pub mod holders;
pub mod index;
pub mod plan;
pub mod pod;
pub mod recall;
pub mod record;
pub mod report;
pub mod reserved;
pub mod restraint;
pub mod room;
pub mod slots;
pub mod status;
pub mod text;
pub mod unenforced;
pub mod view;
