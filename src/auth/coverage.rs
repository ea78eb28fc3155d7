//! Comparison of grants: whether one set covers another, and the intersection of two sets.

use super::Grants;
use crate::names::Pattern;

type Publish = (Pattern, Pattern);

impl Grants {
    /// Whether these grants allow everything that `requested` allows. Patterns that cannot be compared count as not
    /// covered.
    pub fn covers(&self, requested: &Self) -> bool {
        requested.publish.iter().all(|requested| covers_publish(&self.publish, requested))
            && requested.subscribe.iter().all(|requested| covers(&self.subscribe, requested))
            && requested.configure.iter().all(|requested| covers(&self.configure, requested))
            && (self.administer || !requested.administer)
            && (self.observe || !requested.observe)
    }

    /// The intersection of both sets, for display. Two patterns that overlap without one covering the other are
    /// omitted.
    #[must_use]
    pub fn common_with(&self, other: &Self) -> Self {
        Self {
            publish: common(&self.publish, &other.publish, covers_publish),
            subscribe: common(&self.subscribe, &other.subscribe, covers),
            configure: common(&self.configure, &other.configure, covers),
            administer: self.administer && other.administer,
            observe: self.observe && other.observe,
        }
    }
}

fn covers(patterns: &[Pattern], requested: &Pattern) -> bool {
    patterns.iter().any(|pattern| pattern.covers(requested))
}

fn covers_publish(grants: &[Publish], requested: &Publish) -> bool {
    grants.iter().any(|(exchange, key)| exchange.covers(&requested.0) && key.covers(&requested.1))
}

fn common<T: Clone + PartialEq>(ours: &[T], theirs: &[T], covers: impl Fn(&[T], &T) -> bool) -> Vec<T> {
    let of_ours = ours.iter().filter(|requested| covers(theirs, requested));
    let of_theirs = theirs.iter().filter(|requested| covers(ours, requested) && !ours.contains(requested));
    of_ours.chain(of_theirs).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb;

    fn grants(subscribe: &[&str], administer: bool) -> Grants {
        let subscribe = subscribe.iter().map(|&pattern| pattern.to_owned()).collect();
        Grants::parse(&pb::Grants { subscribe, administer, ..Default::default() }).expect("grants")
    }

    #[test]
    fn administer_alone_gives_administer_alone() {
        let administrator = grants(&[], true);
        assert!(administrator.covers(&administrator));
        assert!(!administrator.covers(&grants(&["a"], false)));
        let reader = grants(&["a.#"], false);
        assert!(!reader.covers(&administrator));
        assert!(reader.covers(&grants(&["a.b"], false)));
    }

    #[test]
    fn the_intersection_of_two_sets_has_the_narrower_pattern_of_each_pair() {
        let (one, other) = (grants(&["jobs.#", "mail"], true), grants(&["jobs.eu", "mail", "orders"], false));
        assert_eq!(one.common_with(&other), grants(&["mail", "jobs.eu"], false));
        assert_eq!(one.common_with(&Grants::default()), Grants::default());
        assert_eq!(one.common_with(&one), one);
    }
}
