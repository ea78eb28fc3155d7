//! The patterns of grants, in the syntax of AMQP's topic exchanges: words are separated by dots, `*` matches exactly
//! one word, and `#` any number of words. Matching allocates no memory and takes time proportional to the product of
//! both lengths.

use std::sync::Arc;

use super::{Error, length};

const MAX_PATTERN: usize = 255;

/// A pattern on an exchange, a routing key or a queue.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pattern {
    text: Arc<str>,
    form: Form,
}

/// Determined once, so that the common forms are matched by one comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Form {
    Everything,
    Exact,
    Words,
}

impl Pattern {
    /// # Errors
    /// When the text is empty, longer than 255 bytes, has control characters, or combines `*` or `#` with other
    /// characters in one word, which has another meaning in glob patterns.
    pub fn parse(text: &str) -> Result<Self, Error> {
        length(text, MAX_PATTERN)?;
        if text.chars().any(char::is_control) {
            return Err(Error::Form("must not have control characters"));
        }
        if text.split('.').any(|word| word.len() > 1 && word.contains(['*', '#'])) {
            return Err(Error::Form("\"*\" and \"#\" stand for whole words: write \"a.*\", not \"a*\""));
        }
        let form = match text {
            "#" => Form::Everything,
            _ if text.contains(['*', '#']) => Form::Words,
            _ => Form::Exact,
        };
        Ok(Self { text: text.into(), form })
    }

    /// Whether the pattern matches this text.
    pub fn matches(&self, text: &str) -> bool {
        match self.form {
            Form::Everything => true,
            Form::Exact => &*self.text == text,
            Form::Words => words_match(&self.text, text),
        }
    }

    /// Whether this pattern matches everything that `other` matches. Takes time proportional to the product of their
    /// lengths.
    pub fn covers(&self, other: &Self) -> bool {
        let other: Vec<_> = other.text.split('.').collect();
        // `rest[j]`: whether the words of this pattern from here on cover those of the other one from `j` on.
        let mut rest = vec![false; other.len() + 1];
        rest[other.len()] = true;
        for word in self.text.rsplit('.') {
            let mut here = vec![false; other.len() + 1];
            if word == "#" {
                here[other.len()] = rest[other.len()];
            }
            for j in (0..other.len()).rev() {
                here[j] = match word {
                    // Matches no word, or one word more, which may itself be a pattern.
                    "#" => rest[j] || here[j + 1],
                    "*" => other[j] != "#" && rest[j + 1],
                    _ => other[j] == word && rest[j + 1],
                };
            }
            rest = here;
        }
        rest[0]
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Greedy matching that backtracks to the last `#` only, without recursion.
fn words_match(pattern: &str, text: &str) -> bool {
    let mut pattern_rest = Some(pattern);
    // As in RabbitMQ, an empty key has no words, and a key that ends with a dot has an empty last word.
    let mut text_rest = (!text.is_empty()).then_some(text);
    let mut after_hash: Option<(Option<&str>, Option<&str>)> = None;
    loop {
        match (next(pattern_rest), next(text_rest)) {
            (Some(("#", rest)), _) => {
                after_hash = Some((rest, text_rest));
                pattern_rest = rest;
                continue;
            }
            (Some((want, want_rest)), Some((word, word_rest))) if want == "*" || want == word => {
                (pattern_rest, text_rest) = (want_rest, word_rest);
                continue;
            }
            (None, None) => return true,
            _ => {}
        }
        // No match: let the last `#` match one more word.
        let Some((resume, from)) = after_hash else { return false };
        let Some((_, rest)) = next(from) else { return false };
        after_hash = Some((resume, rest));
        (pattern_rest, text_rest) = (resume, rest);
    }
}

fn next(rest: Option<&str>) -> Option<(&str, Option<&str>)> {
    let rest = rest?;
    Some(match rest.split_once('.') {
        Some((word, rest)) => (word, Some(rest)),
        None => (rest, None),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn covers(pattern: &str, text: &str) -> bool {
        Pattern::parse(pattern).expect("a pattern").matches(text)
    }

    #[test]
    fn patterns_mean_what_topic_exchanges_mean() {
        assert!(covers("*.orange.*", "quick.orange.rabbit"));
        assert!(!covers("*.orange.*", "quick.orange.male.rabbit"));
        assert!(covers("lazy.#", "lazy"));
        assert!(covers("lazy.#", "lazy.orange.male.rabbit"));
        assert!(!covers("lazy.#", "lazyish"));
        assert!(covers("#.error", "a.b.error"));
        assert!(covers("#.error", "error"));
        assert!(covers("a.#.z", "a.b.z.c.z"));
        assert!(covers("#", ""));
    }

    #[test]
    fn an_exact_pattern_does_not_match_longer_keys() {
        assert!(covers("orders", "orders"));
        assert!(!covers("orders", "orders.eu"));
        assert!(!covers("orders", "Orders"));
    }

    #[test]
    fn the_edges_of_keys_are_words_as_the_broker_counts_them() {
        for (pattern, text) in [
            ("#", ""),
            ("#.#", ""),
            ("*", "a"),
            ("a.*", "a."),
            ("*.a", ".a"),
            ("a.*.b", "a..b"),
            ("a.#", "a."),
            ("#.#.b", "b"),
            ("*.#.*", "a.b"),
            ("#", "a.\u{e9}.*"),
        ] {
            assert!(covers(pattern, text), "{pattern} {text:?}");
        }
        for (pattern, text) in [
            ("*", ""),
            ("*.#", ""),
            ("a.#", ""),
            ("a.*", "a"),
            ("a.*", "a.b.c"),
            ("*", "a."),
            ("a", "a."),
            ("a", ".a"),
            ("a.b", "a..b"),
            ("*.#.*", "a"),
            ("#.a", "b.A"),
            ("jobs.#", "jobs-eu.x"),
            ("a.*", "a*"),
        ] {
            assert!(!covers(pattern, text), "{pattern} {text:?}");
        }
    }

    #[test]
    fn half_words_are_refused() {
        for bad in ["a*", "*a", "a.b#", "##", ""] {
            assert!(Pattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_covers_what_is_narrower_and_nothing_wider() {
        let covers = |one: &str, other: &str| {
            Pattern::parse(one).expect("a pattern").covers(&Pattern::parse(other).expect("a pattern"))
        };
        for (one, other) in
            [("#", "a.b"), ("#", "#"), ("a.#", "a"), ("a.#", "a.*.#"), ("a.*", "a.b"), ("a.*", "a.*"), ("#.z", "a.*.z")]
        {
            assert!(covers(one, other), "{one} {other}");
        }
        for (one, other) in [("a", "b"), ("a.*", "a.#"), ("*", "#"), ("a.b", "a.*"), ("a.#", "#"), ("*", "a.b")] {
            assert!(!covers(one, other), "{one} {other}");
        }
    }

    /// A direct implementation of the definition.
    fn definition(pattern: &[&str], text: &[&str]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => definition(rest, text) || (!text.is_empty() && definition(pattern, &text[1..])),
            (Some((want, rest)), Some((word, words))) => (*want == "*" || want == word) && definition(rest, words),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(crate::names::cases())]

        #[test]
        fn no_texts_panic_the_matcher(pattern in "\\PC{0,40}|[a#*.]{0,40}", text in any::<String>()) {
            if let Ok(pattern) = Pattern::parse(&pattern) {
                pattern.matches(&text);
            }
        }

        #[test]
        fn a_covered_pattern_matches_nothing_else(
            one in "([ab*#]\\.){0,4}[ab*#]", other in "([ab*#]\\.){0,4}[ab*#]", text in "([abc]\\.){0,5}[abc]",
        ) {
            let (one, other) = (Pattern::parse(&one).expect("a pattern"), Pattern::parse(&other).expect("a pattern"));
            prop_assert!(!one.covers(&other) || !other.matches(&text) || one.matches(&text));
        }

        #[test]
        fn matching_follows_its_definition(pattern in "([ab*#]\\.){0,5}[ab*#]", text in "(([ab]?\\.){0,6}[ab]?)") {
            let words: Vec<_> = if text.is_empty() { Vec::new() } else { text.split('.').collect() };
            let wanted: Vec<_> = pattern.split('.').collect();
            prop_assert_eq!(covers(&pattern, &text), definition(&wanted, &words));
        }
    }
}
