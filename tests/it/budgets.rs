//! Plans at work.
