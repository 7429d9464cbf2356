//! When bytes last arrived on the watches.

use std::{fmt, time::UNIX_EPOCH};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};

use crate::{
    k8s::{ApiResource, LastActivity},
    metrics::labels::watch,
};

#[derive(Debug)]
pub(super) struct WatchActivityCollector(pub(super) LastActivity);

impl Collector for WatchActivityCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let help = "When the last bytes arrived on a watch of the API server, bookmarks included.";
        let name = "watch_last_activity_timestamp";
        let mut family = encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for resource in ApiResource::WATCHED {
            // A watch that has heard of nothing has no series: 0 would be 1970.
            if let Some(arrival) = self.0.last(resource) {
                let seconds = arrival.wall.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                ConstGauge::new(seconds).encode(family.encode_family(&watch(resource))?)?;
            }
        }
        Ok(())
    }
}
