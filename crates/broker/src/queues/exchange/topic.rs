//! Bindings by words: `*` stands for one word, `#` for any number of them.
//!
//! ```text
//!   root ─ "stock" ─ "*" ─ "nyse"          a lookup walks all nodes that the words so far can have led to,
//!      └── "#" ─ "error"                   word by word; each node is in that set at most once
//! ```
//! **Invariants.** A lookup takes at most words times nodes, also for patterns with many `#`. A node without
//! bindings and children is removed, so the trie is as large as its bindings.
//!
//! Deliberately absent: caching (the doors keep routes).

use std::collections::HashMap;

use super::Bound;

/// All bindings of a topic exchange.
#[derive(Debug)]
pub struct Trie<D> {
    root: Node<D>,
}

#[derive(Debug)]
struct Node<D> {
    words: HashMap<Box<[u8]>, Node<D>>,
    /// One word, whatever it is.
    star: Option<Box<Node<D>>>,
    /// Any number of words.
    hash: Option<Box<Node<D>>>,
    bound: Vec<Bound<D>>,
}

impl<D> Default for Trie<D> {
    fn default() -> Self {
        Trie { root: Node::default() }
    }
}

impl<D> Default for Node<D> {
    fn default() -> Self {
        Node { words: HashMap::new(), star: None, hash: None, bound: Vec::new() }
    }
}

/// A place in the trie; `loops`: it stays there on any further word.
struct At<'a, D> {
    node: &'a Node<D>,
    loops: bool,
}

impl<D> Trie<D> {
    pub(super) fn insert(&mut self, pattern: &[u8], bound: Bound<D>) {
        let mut node = &mut self.root;
        for word in words(pattern) {
            node = match word {
                b"*" => node.star.get_or_insert_default(),
                b"#" => node.hash.get_or_insert_default(),
                // Looked up twice so that a word that is there is not copied.
                word if node.words.contains_key(word) => {
                    node.words.get_mut(word).expect("it was just looked up")
                }
                word => node.words.entry(word.into()).or_default(),
            };
        }
        node.bound.push(bound);
    }

    pub(super) fn remove(&mut self, pattern: &[u8], id: u64) {
        let words: Vec<&[u8]> = words(pattern).collect();
        self.root.remove(&words, id);
    }

    pub(super) fn lookup(&self, key: &[u8], each: &mut impl FnMut(&Bound<D>)) {
        let mut here = Vec::with_capacity(8);
        self.root.arrive(false, &mut here);
        let mut next = Vec::with_capacity(8);
        for word in words(key) {
            for at in &here {
                if at.loops {
                    next.push(At { node: at.node, loops: true });
                }
                if let Some(node) = at.node.words.get(word) {
                    node.arrive(false, &mut next);
                }
                if let Some(node) = &at.node.star {
                    node.arrive(false, &mut next);
                }
            }
            here.clear();
            std::mem::swap(&mut here, &mut next);
            // A place can be reached over several ways, but counts once.
            here.sort_unstable_by_key(|at| std::ptr::from_ref(at.node).addr());
            here.dedup_by_key(|at| std::ptr::from_ref(at.node).addr());
            if here.is_empty() {
                return;
            }
        }
        for bound in here.iter().flat_map(|at| &at.node.bound) {
            each(bound);
        }
    }
}

impl<D> Node<D> {
    /// Adds this node and those that `#` leads to without a word.
    fn arrive<'a>(&'a self, loops: bool, into: &mut Vec<At<'a, D>>) {
        into.push(At { node: self, loops });
        let mut node = self;
        while let Some(hash) = &node.hash {
            into.push(At { node: hash, loops: true });
            node = hash;
        }
    }

    /// Whether nothing is left of the node.
    fn remove(&mut self, words: &[&[u8]], id: u64) -> bool {
        match words.split_first() {
            None => self.bound.retain(|bound| bound.id != id),
            Some((&b"*", rest)) => {
                self.star.take_if(|node| node.remove(rest, id));
            }
            Some((&b"#", rest)) => {
                self.hash.take_if(|node| node.remove(rest, id));
            }
            Some((word, rest)) => {
                if self.words.get_mut(*word).is_some_and(|node| node.remove(rest, id)) {
                    self.words.remove(*word);
                }
            }
        }
        self.words.is_empty() && self.star.is_none() && self.hash.is_none() && self.bound.is_empty()
    }
}

/// The words of a key or pattern. The empty key has none; between two points lies an empty word.
fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    let some = !key.is_empty();
    key.split(|byte| *byte == b'.').filter(move |_| some)
}

#[cfg(test)]
impl<D> Trie<D> {
    pub(super) fn nodes(&self) -> usize {
        self.root.nodes()
    }
}

#[cfg(test)]
impl<D> Node<D> {
    fn nodes(&self) -> usize {
        let children = self.words.values().chain(self.star.as_deref()).chain(self.hash.as_deref());
        1 + children.map(Node::nodes).sum::<usize>()
    }
}
