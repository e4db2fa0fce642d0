//! Finds the expression around the text that a mutant replaces, and makes a switch of it.

use std::collections::BTreeMap;
use std::ops::Range;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

use crate::Mutant;
use crate::edits::{Node, Part};

/// A mutant of a kind begins at a byte of the text.
type Key = (String, usize);

struct Finder<'a> {
    text: &'a str,
    waiting: BTreeMap<Key, Vec<&'a Mutant>>,
    nodes: Vec<Node>,
}

/// The switches of a file, and the mutants for which there is none.
pub fn find(text: &str, mutants: &[Mutant]) -> (Vec<Node>, Vec<usize>) {
    let lines: Vec<usize> = [0].into_iter().chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let mut waiting = BTreeMap::<Key, Vec<_>>::new();
    for mutant in mutants {
        let line = lines[mutant.line - 1];
        let column = text[line..].char_indices().nth(mutant.column - 1).expect("it lies in the text").0;
        waiting.entry((mutant.genre.clone(), line + column)).or_default().push(mutant);
    }
    let file = syn::parse_file(text).expect("the source can be parsed");
    let mut finder = Finder { text, waiting, nodes: Vec::new() };
    finder.visit_file(&file);
    let missed = finder.waiting.into_values().flatten().map(|mutant| mutant.number).collect();
    (finder.nodes, missed)
}

fn on(mutant: &Mutant) -> String {
    format!("crate::mutation::on({})", mutant.number)
}

/// `let` is an expression only in a chain of conditions.
fn has_let(expression: &syn::Expr) -> bool {
    match expression {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(binary) => has_let(&binary.left) || has_let(&binary.right),
        _ => false,
    }
}

impl<'a> Finder<'a> {
    fn take(&mut self, genre: &str, span: Span) -> Vec<&'a Mutant> {
        self.waiting.remove(&(genre.to_owned(), span.byte_range().start)).unwrap_or_default()
    }

    fn source(&self, span: Span) -> &'a str {
        &self.text[span.byte_range()]
    }

    /// The text of each mutant where it is on, and otherwise the original.
    fn choose(&mut self, range: Range<usize>, mutants: &[&Mutant], changed: impl Fn(&Mutant) -> String) {
        if mutants.is_empty() {
            return;
        }
        let mut parts = vec![Part::Text("(")];
        for mutant in mutants {
            parts.push(Part::Changed(mutant.number, format!("if {} {{ {} }}", on(mutant), changed(mutant))));
            parts.push(Part::Text(" else "));
        }
        parts.extend([Part::Text("{ "), Part::Original(range.clone()), Part::Text(" })")]);
        self.nodes.push(Node { range, parts });
    }

    fn insert(&mut self, at: usize, number: usize, text: String) {
        self.nodes.push(Node { range: at..at, parts: vec![Part::Changed(number, text)] });
    }

    fn body(&mut self, block: &syn::Block) {
        let Some(first) = block.stmts.first() else { return };
        for mutant in self.take("FnValue", first.span()) {
            let text = format!("if {} {{ return {}; }} ", on(mutant), mutant.replacement);
            self.insert(first.span().byte_range().start, mutant.number, text);
        }
    }
}

impl<'ast> Visit<'ast> for Finder<'_> {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.body(&item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.body(&item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.body(block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        // With `||`, a chain with `let` does not compile. Then it is left in the list of those without a switch.
        if !(has_let(&binary.left) || has_let(&binary.right)) {
            let mutants = self.take("BinaryOperator", binary.op.span());
            let (left, right) = (self.source(binary.left.span()), self.source(binary.right.span()));
            let range = binary.span().byte_range();
            self.choose(range, &mutants, |mutant| format!("{left} {} {right}", mutant.replacement));
        }
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_unary(&mut self, unary: &'ast syn::ExprUnary) {
        let mutants = self.take("UnaryOperator", unary.op.span());
        let operand = self.source(unary.expr.span());
        self.choose(unary.span().byte_range(), &mutants, |_| operand.to_owned());
        visit::visit_expr_unary(self, unary);
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        for mutant in self.take("MatchArm", arm.span()) {
            self.insert(arm.pat.span().byte_range().end, mutant.number, format!(" if !{}", on(mutant)));
        }
        if let Some((_, guard)) = &arm.guard {
            let mutants = self.take("MatchArmGuard", guard.span());
            self.choose(guard.span().byte_range(), &mutants, |mutant| mutant.replacement.clone());
        }
        visit::visit_arm(self, arm);
    }

    fn visit_expr_struct(&mut self, item: &'ast syn::ExprStruct) {
        if let Some(rest) = &item.rest {
            let (path, rest) = (self.source(item.path.span()), self.source(rest.span()));
            for field in &item.fields {
                let syn::Member::Named(name) = &field.member else { continue };
                let mutants = self.take("StructField", field.span());
                // A short form names a variable.
                if field.colon_token.is_none() {
                    for mutant in mutants {
                        let text = format!(
                            "{name}: if {} {{ let all: {path} = {rest}; all.{name} }} else {{ {name} }}",
                            on(mutant)
                        );
                        let parts = vec![Part::Changed(mutant.number, text)];
                        self.nodes.push(Node { range: field.span().byte_range(), parts });
                    }
                    continue;
                }
                let range = field.expr.span().byte_range();
                self.choose(range, &mutants, |_| format!("let all: {path} = {rest}; all.{name}"));
            }
        }
        visit::visit_expr_struct(self, item);
    }
}
