//! What settings of a topic must be to each other, and to the server: checked when they are set.
//!
//! **Invariant.** A topic that is stored is never refused at start for a rule of today: it is checked when it is
//! created and when it is altered, with what the server's defaults add.

use ferrymq_types::Durability;

use super::{SettingError, TopicConfig, TopicDefaults, topic_setting};

/// What asks for syncs by count or time.
const FLUSHES: [&str; 2] = ["flush.messages", "flush.ms"];
/// What asks for copies.
const COPIES: &str = "min.insync.replicas";

impl TopicConfig {
    /// Checks settings against each other. `strict_copies`: whether asking for more than one copy is refused
    /// rather than left to the store.
    ///
    /// # Errors
    /// [`SettingError::Invalid`] for the first setting that cannot be honoured.
    pub fn check_relations(&self, defaults: &TopicDefaults, strict_copies: bool) -> Result<(), SettingError> {
        if self.durability != Durability::Sync {
            for name in FLUSHES {
                let value = self.value(name, defaults);
                if topic_setting(name).is_some_and(|setting| value.trim() != setting.default) {
                    let class = self.value("ferrymq.durability", defaults);
                    let why = format!(
                        "a topic with ferrymq.durability={class} is never synced by the broker; \
                         ferrymq.durability=sync syncs every record before it is acknowledged"
                    );
                    return Err(invalid(name, value, why));
                }
            }
        }
        let copies = self.value(COPIES, defaults);
        if strict_copies && copies.trim().parse::<i64>() != Ok(1) {
            let why = "copies are the store's and the broker keeps one; it was started with \
                       strict-replication-factor, which refuses to promise more";
            return Err(invalid(COPIES, copies, why.to_owned()));
        }
        Ok(())
    }
}

fn invalid(name: &str, value: String, why: String) -> SettingError {
    SettingError::Invalid { name: name.to_owned(), value, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        own: &[(&str, &str)],
        server: &[(&'static str, &str)],
        strict: bool,
    ) -> Result<(), SettingError> {
        let own = own.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let values = server.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let defaults = TopicDefaults { values };
        TopicConfig::new(own, &defaults)?.check_relations(&defaults, strict)
    }

    #[test]
    fn syncs_are_not_promised_where_there_are_none() {
        let flushes = [("flush.messages", "1"), ("flush.ms", "1000")];
        for flush in flushes {
            check(&[flush], &[], false).unwrap();
            for class in ["os", "memory"] {
                let class = ("ferrymq.durability", class);
                check(&[class], &[], false).unwrap();
                check(&[class, ("flush.ms", "9223372036854775807")], &[], false).unwrap();
                for (own, server) in
                    [(vec![flush, class], vec![]), (vec![flush], vec![class]), (vec![], vec![flush, class])]
                {
                    let refused = check(&own, &server, false).unwrap_err().to_string();
                    assert!(
                        refused.contains(flush.0) && refused.contains("ferrymq.durability=sync"),
                        "{refused}"
                    );
                }
            }
        }
    }

    #[test]
    fn copies_are_promised_by_a_lenient_server_only() {
        let two = ("min.insync.replicas", "2");
        check(&[two], &[two], false).unwrap();
        check(&[("min.insync.replicas", "1")], &[two], true).unwrap();
        for (own, server) in [(vec![two], vec![]), (vec![], vec![two])] {
            assert!(
                check(&own, &server, true).unwrap_err().to_string().contains("strict-replication-factor")
            );
        }
    }
}
