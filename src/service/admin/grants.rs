//! What a tenant's administrator may give. It may manage every client of its tenant, but neither give nor take over more than
//! its own token grants; otherwise "administer" alone would be everything, by way of a client that it makes for itself or
//! whose secret it rotates. Patterns are compared as patterns, and in doubt not covered.

use super::Error;
use crate::{auth::Grants, tenant::Administrator};

/// Whether this administrator may hand out, or take over, these grants.
pub(super) fn check(who: &Administrator, grants: &Grants) -> Result<(), Error> {
    if who.is_platform() || covers(who.caller().grants(), grants) { Ok(()) } else { Err(Error::GrantsExceedOwn) }
}

fn covers(held: &Grants, asked: &Grants) -> bool {
    let (held, asked) = (held.to_pb(), asked.to_pb());
    let all = |held: &[String], asked: &[String]| {
        asked.iter().all(|asked| held.iter().any(|held| pattern_covers(held, asked)))
    };
    let publish = asked.publish.iter().all(|asked| {
        held.publish.iter().any(|held| {
            pattern_covers(&held.exchange, &asked.exchange) && pattern_covers(&held.routing_key, &asked.routing_key)
        })
    });
    publish
        && all(&held.subscribe, &asked.subscribe)
        && all(&held.configure, &asked.configure)
        && (held.administer || !asked.administer)
}

/// Whether everything that `asked` matches is matched by `held`, word by word; linear in their product.
fn pattern_covers(held: &str, asked: &str) -> bool {
    let asked: Vec<_> = asked.split('.').collect();
    // `rest[j]`: whether the words of `held` from here on cover those of `asked` from `j` on.
    let mut rest = vec![false; asked.len() + 1];
    rest[asked.len()] = true;
    for word in held.rsplit('.') {
        let mut here = vec![false; asked.len() + 1];
        if word == "#" {
            here[asked.len()] = rest[asked.len()];
        }
        for j in (0..asked.len()).rev() {
            here[j] = match word {
                // Takes nothing, or one word more, whatever stands for it.
                "#" => rest[j] || here[j + 1],
                "*" => asked[j] != "#" && rest[j + 1],
                _ => asked[j] == word && rest[j + 1],
            };
        }
        rest = here;
    }
    rest[0]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{names::Pattern, pb};

    #[test]
    fn a_pattern_covers_what_is_narrower_and_nothing_wider() {
        for (held, asked) in
            [("#", "a.b"), ("#", "#"), ("a.#", "a"), ("a.#", "a.*.#"), ("a.*", "a.b"), ("a.*", "a.*"), ("#.z", "a.*.z")]
        {
            assert!(pattern_covers(held, asked), "{held} {asked}");
        }
        for (held, asked) in [("a", "b"), ("a.*", "a.#"), ("*", "#"), ("a.b", "a.*"), ("a.#", "#"), ("*", "a.b")] {
            assert!(!pattern_covers(held, asked), "{held} {asked}");
        }
    }

    #[test]
    fn administer_alone_gives_administer_alone() {
        let grants = |grants: pb::Grants| Grants::parse(&grants).expect("grants");
        let held = grants(pb::Grants { administer: true, ..Default::default() });
        assert!(covers(&held, &held));
        assert!(!covers(&held, &grants(pb::Grants { subscribe: vec!["a".into()], ..Default::default() })));
        let reader = grants(pb::Grants { subscribe: vec!["a.#".into()], ..Default::default() });
        assert!(!covers(&reader, &held));
        assert!(covers(&reader, &grants(pb::Grants { subscribe: vec!["a.b".into()], ..Default::default() })));
    }

    proptest! {
        #[test]
        fn what_is_covered_never_reaches_further(
            held in "([ab*#]\\.){0,4}[ab*#]", asked in "([ab*#]\\.){0,4}[ab*#]", text in "([abc]\\.){0,5}[abc]",
        ) {
            let matches = |pattern: &str| Pattern::parse(pattern).expect("a pattern").matches(&text);
            prop_assert!(!pattern_covers(&held, &asked) || !matches(&asked) || matches(&held));
        }
    }
}
