//! What no Kubernetes Event will tell.

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

use crate::{k8s::EventQueue, metrics::labels::loss};

/// Nothing, until it is told whose Events.
#[derive(Debug)]
pub(super) struct EventsDropped(pub(super) Arc<OnceLock<EventQueue>>);

impl Collector for EventsDropped {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(outbox) = self.0.get() else {
            return Ok(());
        };
        let help = "What no Kubernetes Event will tell: there was no room for more, or the API server refused it.";
        let mut family = encoder.encode_descriptor("kubernetes_events_dropped", help, None, MetricType::Counter)?;
        for why in DropReason::ALL {
            ConstCounter::new(outbox.lost(why)).encode(family.encode_family(&loss(why))?)?;
        }
        Ok(())
    }
}
