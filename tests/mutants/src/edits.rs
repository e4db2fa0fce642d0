//! Edits of a text that may lie in each other.

use std::ops::Range;

/// A range of the text, and what takes its place.
#[derive(Debug)]
pub struct Node {
    pub range: Range<usize>,
    pub parts: Vec<Part>,
}

#[derive(Debug)]
pub enum Part {
    /// Belongs to a mutant.
    Changed(usize, String),
    Text(&'static str),
    /// The original, with the nodes that lie in it.
    Original(Range<usize>),
}

/// Bytes of the output that belong to a mutant.
#[derive(Debug)]
pub struct Piece {
    pub start: usize,
    pub end: usize,
    pub number: usize,
}

#[derive(Debug, Default)]
pub struct Output {
    pub text: String,
    pub pieces: Vec<Piece>,
}

/// Applies nodes in the order in which a visitor meets them: the outer ones first.
pub fn render(text: &str, nodes: &[Node], output: &mut Output) {
    original(text, nodes, 0..text.len(), output);
}

fn original(text: &str, nodes: &[Node], range: Range<usize>, output: &mut Output) {
    let mut inside: Vec<usize> = (0..nodes.len())
        .filter(|&index| range.start <= nodes[index].range.start && nodes[index].range.end <= range.end)
        .collect();
    // Stable: of nodes with the same start the outer one comes first.
    inside.sort_by_key(|&index| nodes[index].range.start);
    let mut at = range.start;
    let mut rest = &inside[..];
    while let Some((&first, others)) = rest.split_first() {
        let node = &nodes[first];
        output.text.push_str(&text[at..node.range.start]);
        let nested = others.iter().take_while(|&&other| nodes[other].range.start < node.range.end).count();
        // Only what was met after it can lie in it.
        let after = &nodes[first + 1..];
        for part in &node.parts {
            match part {
                Part::Text(part) => output.text.push_str(part),
                Part::Changed(number, part) => {
                    let start = output.text.len();
                    output.text.push_str(part);
                    output.pieces.push(Piece { start, end: output.text.len(), number: *number });
                }
                Part::Original(part) => original(text, after, part.clone(), output),
            }
        }
        at = node.range.end;
        rest = &others[if node.range.is_empty() { 0 } else { nested }..];
    }
    output.text.push_str(&text[at..range.end]);
}
