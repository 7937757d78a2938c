//! What a scheduling rule is.
//!
//! A rule is pure: it looks at the pod and the view and answers; it never awaits or writes. Each rule is one file in
//! `plugins/` and implements the traits of the questions that it has a say in. Rules look at the pod once per cycle
//! (`prepare`, which Kubernetes calls pre-filter and pre-score) and answer with a closure over nodes, or not at all
//! when the pod gives them nothing to decide, so that a plain pod costs a few nanoseconds per node.

use std::borrow::Cow;

use super::{NodeInfo, PodInfo};

/// Why a node was refused, as the pod's owner reads it: `Insufficient cpu`. Equal reasons are counted together.
pub type Reason = Cow<'static, str>;

/// What a rule says of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Fits,
    /// Refused, with at least one reason.
    Refused(Vec<Reason>),
}

impl Verdict {
    pub fn refused(reason: &'static str) -> Self {
        Self::Refused(vec![Cow::Borrowed(reason)])
    }

    pub fn fits_if(fits: bool, reason: &'static str) -> Self {
        if fits { Self::Fits } else { Self::refused(reason) }
    }
}

/// A rule applied to one pod: says for each node whether it may go there.
pub type NodeFilter<'a> = Box<dyn Fn(&NodeInfo) -> Verdict + 'a>;

/// A rule applied to one pod: gives each node points, in its own scale.
pub type NodeScore<'a> = Box<dyn Fn(&NodeInfo) -> i64 + 'a>;

/// Which of the waiting pods goes first.
pub trait QueueSort: Send + Sync {
    /// The pod of the highest rank; of equal ones, the pod that has waited longest.
    fn rank(&self, pod: &PodInfo) -> i64;
}

/// A rule about which nodes are possible. It must depend on the pod and the one node alone: a refused pod is
/// looked at again when a node changes in a way that the rules would now accept.
pub trait Filter: Send + Sync {
    fn name(&self) -> &'static str;
    /// Looks at the pod once; `None` if the rule has nothing to say about it.
    fn prepare<'a>(&self, pod: &'a PodInfo) -> Option<NodeFilter<'a>>;
}

/// How a score's own scale becomes 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// It is 0 to 100 already.
    Percent,
    /// The most points of all candidates become 100.
    MoreIsBetter,
    /// No points become 100, the most of all candidates 0.
    FewerIsBetter,
}

/// A rule about which of the possible nodes is best.
pub trait Score: Send + Sync {
    fn name(&self) -> &'static str;
    fn weight(&self) -> i64;
    fn scale(&self) -> Scale;
    /// Looks at the pod once; `None` if all nodes are alike for it.
    fn prepare<'a>(&self, pod: &'a PodInfo) -> Option<NodeScore<'a>>;
}

/// Keeps account of something beside the node's resources between choice and bind; both calls must be quick.
pub trait Reserve: Send + Sync {
    fn reserve(&self, pod: &PodInfo, node: &str);
    /// The bind failed, or the pod went away before.
    fn unreserve(&self, pod: &PodInfo, node: &str);
}

/// The rules of a scheduler, in the order in which they are asked.
pub struct Profile {
    pub queue_sort: Box<dyn QueueSort>,
    pub filters: Vec<Box<dyn Filter>>,
    pub scores: Vec<Box<dyn Score>>,
    pub reserves: Vec<Box<dyn Reserve>>,
}
