//! Ids, offsets, the record batch and limits: the vocabulary every other crate shares.
