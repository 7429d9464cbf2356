//! How many pods of an object there are at once, also while it is updated.

use crate::yaml::spanned::{Node, Value};

/// Default of the API server for `maxSurge` and `maxUnavailable` of a Deployment (`SetDefaults_Deployment` in
/// pkg/apis/apps/v1/defaults.go).
const DEFAULT_ROLLING: IntOrPercent = IntOrPercent::Percent(25);

/// Count of pods that there are at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaCount {
    /// One on every node that suits it.
    EveryNode {
        /// An update starts the new pod of a node while the old one is there.
        surge: bool,
    },
    /// Number of pods that the object says.
    Count {
        /// Count of replicas, 0 included.
        replicas: u32,
        /// Manner of their replacement; `None` if each goes before its successor comes.
        update: Option<RollingUpdate>,
    },
}

/// A rolling update of a Deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RollingUpdate {
    /// Count of pods that there may be beyond the replicas.
    pub surge: u32,
    /// Count of replicas that may be missing. With 0, no old pod goes before a new one is ready.
    pub unavailable: u32,
    /// The manifest says `maxSurge`, or it is the default.
    pub stated: bool,
}

impl ReplicaCount {
    /// Returns the most pods there can be at once, when nothing is being updated; `None` if nodes decide.
    #[must_use]
    pub fn replicas(self) -> Option<u32> {
        match self {
            Self::EveryNode { .. } => None,
            Self::Count { replicas, .. } => Some(replicas),
        }
    }

    /// Returns the count of one pod.
    #[must_use]
    pub fn one() -> Self {
        Self::Count { replicas: 1, update: None }
    }

    /// Reads the count of a Deployment.
    ///
    /// # Errors
    ///
    /// What cannot be read.
    pub fn of_deployment(spec: &Node) -> Result<Self, String> {
        let replicas = count(spec, "replicas", 1)?;
        let strategy = spec.get("strategy");
        let kind = strategy.and_then(|strategy| strategy.get("type")).and_then(Node::text);
        if kind == Some("Recreate") || replicas == 0 {
            return Ok(Self::Count { replicas, update: None });
        }
        let rolling = strategy.and_then(|strategy| strategy.get("rollingUpdate"));
        let surge = rolling.map(|rolling| int_or_percent(rolling, "maxSurge")).transpose()?.flatten();
        let unavailable = rolling.map(|rolling| int_or_percent(rolling, "maxUnavailable")).transpose()?.flatten();
        let update = RollingUpdate {
            surge: surge.unwrap_or(DEFAULT_ROLLING).of(replicas, true),
            unavailable: unavailable.unwrap_or(DEFAULT_ROLLING).of(replicas, false),
            stated: surge.is_some(),
        };
        Ok(Self::Count { replicas, update: Some(update.without_surge()) })
    }

    /// Reads the count of a `DaemonSet`.
    ///
    /// # Errors
    ///
    /// What cannot be read.
    pub fn of_daemon_set(spec: &Node) -> Result<Self, String> {
        let strategy = spec.get("updateStrategy");
        let on_delete = strategy.and_then(|strategy| strategy.get("type")).and_then(Node::text) == Some("OnDelete");
        let rolling = strategy.and_then(|strategy| strategy.get("rollingUpdate"));
        let surge = rolling.map(|rolling| int_or_percent(rolling, "maxSurge")).transpose()?.flatten();
        Ok(Self::EveryNode { surge: !on_delete && surge.is_some_and(|surge| surge.of(1, true) > 0) })
    }

    /// Reads the count of a `StatefulSet` or a `ReplicaSet`.
    ///
    /// # Errors
    ///
    /// What cannot be read.
    pub fn of_set(spec: &Node) -> Result<Self, String> {
        Ok(Self::Count { replicas: count(spec, "replicas", 1)?, update: None })
    }

    /// Reads the count of a Job: no more pods at once than are still to succeed, and none while it is suspended.
    ///
    /// # Errors
    ///
    /// What cannot be read.
    pub fn of_job(spec: &Node) -> Result<Self, String> {
        let parallelism = count(spec, "parallelism", 1)?;
        let completions = count(spec, "completions", u32::MAX)?;
        let replicas = if is_suspended(spec) { 0 } else { parallelism.min(completions) };
        Ok(Self::Count { replicas, update: None })
    }

    /// Reads the count of a `CronJob`: the pods of one run.
    ///
    /// # Errors
    ///
    /// What cannot be read.
    pub fn of_cron_job(spec: &Node) -> Result<Self, String> {
        let job = Self::of_job(spec.at(&["jobTemplate", "spec"]).ok_or("it has no jobTemplate.spec")?)?;
        Ok(if is_suspended(spec) { Self::Count { replicas: 0, update: None } } else { job })
    }
}

impl RollingUpdate {
    /// Lets one pod be missing if there is no surge: with neither a surge nor a missing pod nothing would ever move
    /// (`ResolveFenceposts` in `pkg/controller/deployment/util/deployment_util.go`).
    fn without_surge(self) -> Self {
        Self { unavailable: if self.surge == 0 { self.unavailable.max(1) } else { self.unavailable }, ..self }
    }
}

fn is_suspended(spec: &Node) -> bool {
    spec.get("suspend").is_some_and(|node| node.value == Value::Bool(true))
}

fn count(spec: &Node, key: &str, default: u32) -> Result<u32, String> {
    let Some(node) = spec.get(key) else {
        return Ok(default);
    };
    let number = if let Value::Number(number) = &node.value { number.as_u64() } else { None };
    number
        .and_then(|number| i32::try_from(number).ok())
        .and_then(|number| u32::try_from(number).ok())
        .ok_or_else(|| format!("{key} is not a whole number from 0 on"))
}

/// A number of pods, or a part of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IntOrPercent {
    Number(u32),
    Percent(u32),
}

impl IntOrPercent {
    /// Computes the share of so many pods (`GetScaledValueFromIntOrPercent` in k8s.io/apimachinery/pkg/util/intstr).
    fn of(self, pods: u32, up: bool) -> u32 {
        match self {
            Self::Number(number) => number,
            Self::Percent(percent) => {
                let hundredths = u64::from(percent) * u64::from(pods);
                let part = if up { hundredths.div_ceil(100) } else { hundredths / 100 };
                u32::try_from(part).unwrap_or(u32::MAX)
            }
        }
    }
}

fn int_or_percent(rolling: &Node, key: &str) -> Result<Option<IntOrPercent>, String> {
    let Some(node) = rolling.get(key) else {
        return Ok(None);
    };
    if let Some(percent) = node.text().and_then(|text| text.strip_suffix('%')) {
        let digits = !percent.is_empty() && percent.bytes().all(|byte| byte.is_ascii_digit());
        let percent = percent.parse().ok().filter(|_| digits).map(IntOrPercent::Percent);
        return percent.map(Some).ok_or_else(|| format!("{key} is no percentage"));
    }
    count(rolling, key, 0)
        .map(|number| Some(IntOrPercent::Number(number)))
        .map_err(|_| format!("{key} is neither a whole number from 0 on nor a percentage"))
}
