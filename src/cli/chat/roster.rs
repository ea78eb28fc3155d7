//! The people present in a room: those with a recent presence message.

use std::collections::BTreeMap;

use tokio::time::Instant;

/// The people present, by session; the same name twice means two people.
#[derive(Debug, Default)]
pub(super) struct Roster(BTreeMap<String, (String, Instant)>);

impl Roster {
    /// Records a presence message that is valid until the given time. Returns whether the session is new.
    pub(super) fn here(&mut self, session: String, name: String, until: Instant) -> bool {
        self.0.insert(session, (name, until)).is_none()
    }

    /// Removes a session. Returns its name, if it was present.
    pub(super) fn left(&mut self, session: &str) -> Option<String> {
        self.0.remove(session).map(|(name, _)| name)
    }

    /// Removes sessions without a recent presence message. Returns their names.
    pub(super) fn silent(&mut self, now: Instant) -> Vec<String> {
        let gone = self.0.extract_if(.., |_, (_, until)| *until <= now);
        gone.map(|(_, (name, _))| name).collect()
    }

    /// The names of those present, sorted.
    pub(super) fn names(&self, now: Instant) -> Vec<&str> {
        let here = self.0.values().filter(|(_, until)| *until > now);
        let mut names: Vec<_> = here.map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn people_who_leave_or_time_out_are_not_present() {
        let (mut roster, now) = (Roster::default(), Instant::now());
        let later = now + Duration::from_secs(45);
        assert!(roster.here("1".into(), "ben".into(), now + Duration::from_secs(5)));
        assert!(roster.here("2".into(), "ann".into(), later));
        assert!(!roster.here("2".into(), "ann".into(), later));
        assert!(roster.here("3".into(), "ann".into(), later), "another of the same name");
        assert_eq!(roster.names(now), ["ann", "ann", "ben"]);
        assert_eq!(roster.silent(now + Duration::from_secs(10)), ["ben"]);
        assert_eq!((roster.left("2").as_deref(), roster.left("2")), (Some("ann"), None));
        assert_eq!(roster.names(now), ["ann"]);
    }
}
