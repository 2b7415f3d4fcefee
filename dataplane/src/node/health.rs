//! Turns what drives say of themselves into events: one when a concern begins, one when it ends.

use super::Severity;
use crate::disk::health::{Concern, Health};

/// What is known of one drive's health.
pub(crate) struct HealthWatch {
    name: String,
    last: Option<Health>,
    concerns: Vec<Concern>,
}

impl HealthWatch {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), last: None, concerns: Vec::new() }
    }

    /// Looks at what a drive said last, and whether that is anything new; cheap where it is not.
    pub(crate) fn see(
        &mut self,
        health: Health,
        note: &mut dyn FnMut(Severity, &str, String),
    ) -> bool {
        let before = self.last.replace(health);
        if before == Some(health) {
            return false;
        }
        let concerns = health.concerns(&self.concerns);
        for concern in &concerns {
            let is_new = !self.concerns.contains(concern);
            let errors = |health: Option<Health>| health.and_then(|health| health.media_errors);
            // Each loss of data counts anew.
            let is_more = *concern == Concern::MediaErrors && errors(before) != health.media_errors;
            if is_new || is_more {
                let severity = if concern.is_grave() { Severity::Error } else { Severity::Warning };
                note(severity, "disk.health", self.text(concern.text(), &health));
            }
        }
        for ended in self.concerns.iter().filter(|concern| !concerns.contains(concern)) {
            let text = format!("no longer: {}", ended.text());
            note(Severity::Info, "disk.health", self.text(&text, &health));
        }
        self.concerns = concerns;
        true
    }

    fn text(&self, what: &str, health: &Health) -> String {
        let number = |name: &str, value: Option<i64>| {
            value.map(|value| format!(", {name} {value}")).unwrap_or_default()
        };
        format!(
            "disk {}: {what}{}{}{}",
            self.name,
            number("life used in percent:", health.used_percent.map(i64::from)),
            number("celsius:", health.temperature.map(i64::from)),
            number("media errors:", health.media_errors.and_then(|count| count.try_into().ok())),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_concern_makes_one_event_when_it_begins_and_one_when_it_ends() {
        let mut watch = HealthWatch::new("x");
        let mut events = Vec::new();
        let mut at = |celsius, errors| {
            let health = Health {
                temperature: Some(celsius),
                media_errors: Some(errors),
                ..Health::default()
            };
            watch.see(health, &mut |severity, _, text| events.push((severity, text)));
            std::mem::take(&mut events)
        };
        assert!(at(40, 0).is_empty());
        let hot = at(81, 0);
        assert!(hot.len() == 1 && hot[0].1.contains("cooling") && hot[0].1.contains("81"));
        assert!(at(77, 0).is_empty(), "it has not ended yet");
        assert!(at(82, 0).is_empty(), "nor begun again");
        assert_eq!(at(60, 0)[0].0, Severity::Info);
        assert_eq!(at(60, 1).len(), 1);
        assert!(at(60, 1).is_empty());
        assert_eq!(at(60, 2).len(), 1, "another loss");
    }
}
