//! Files of Pod manifests: texts in, pods and problems out.

mod pod_file;
mod pod_folder;

pub use pod_file::{FileProblem, MAX_MESSAGE, shown};
pub use pod_folder::{FolderContents, PodFolder};
