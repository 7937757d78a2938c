//! What every side of Naru shares about API objects: pure facts and functions, no I/O, no tokio.
//!
//! The control plane, the node agent and the tests all use this crate, so that a quantity, a selector or a
//! patch means the same thing everywhere.

pub mod apply;
pub mod condition;
pub mod cron;
pub mod duration;
pub mod intstr;
pub mod loopback;
pub mod object;
pub mod owner;
pub mod patch;
pub mod pod;
pub mod pod_brief;
pub mod quantity;
pub mod resource;
pub mod rfc3339;
pub mod selector;
pub mod taint;
pub mod validation;
pub mod version;

pub use object::Object;
pub use pod_brief::PodBrief;
pub use resource::ResourceInfo;
