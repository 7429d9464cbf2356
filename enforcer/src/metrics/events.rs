//! Conflicts without a Kubernetes Event.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};

use enforcer_core::k8s_events::DropReason;

use crate::{k8s::EventQueue, metrics::labels::drop_reason};

/// Collector of dropped Events. It has no series before the queue is set.
#[derive(Debug)]
pub(super) struct EventsDropped(pub(super) Arc<OnceLock<EventQueue>>);

impl Collector for EventsDropped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(queue) = self.0.get() else {
            return Ok(());
        };
        let help = "Conflicts without a Kubernetes Event: the queue was full, or the API server refused it.";
        let mut family = encoder.encode_descriptor("kubernetes_events_dropped", help, None, MetricType::Counter)?;
        for why in DropReason::ALL {
            ConstCounter::new(queue.dropped(why)).encode(family.encode_family(&drop_reason(why))?)?;
        }
        Ok(())
    }
}
