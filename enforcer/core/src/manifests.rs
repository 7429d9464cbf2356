//! Files of Pod manifests: texts in, pods and problems out.

mod file_text;
mod pod_file;
mod pod_folder;

pub use file_text::{is_hidden, text_of};
pub use pod_file::{FileProblem, MAX_MESSAGE, shown};
pub use pod_folder::{FolderContents, PodFolder};
