//! Types as they are written: which a message cannot carry, and what they mean outside the impl block.

use proc_macro2::{Group, Ident, Spacing, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Error, GenericArgument, Path, PathArguments, PathSegment, ReturnType, Type, TypeParamBound};

/// What a type belongs to, for the advice in an error.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Argument,
    Answer,
}

/// Refuses a type that cannot be sent to another task.
pub(crate) fn check_owned(ty: &Type, role: Role) -> syn::Result<()> {
    match ty {
        Type::Reference(reference) => match &reference.lifetime {
            Some(lifetime) if lifetime.ident == "static" => check_owned(&reference.elem, role),
            _ => Err(Error::new_spanned(ty, borrowed(role))),
        },
        Type::ImplTrait(_) => Err(Error::new_spanned(
            ty,
            match role {
                Role::Argument => {
                    "a message has one type: name the type, or box a trait object (`Box<dyn Trait + Send>`)"
                }
                Role::Answer => "a reply has one type: name the type, or box a trait object (`Box<dyn Trait + Send>`)",
            },
        )),
        Type::Infer(_) => Err(Error::new_spanned(ty, "name the type: it becomes a part of the message")),
        Type::Array(array) => check_owned(&array.elem, role),
        Type::Slice(slice) => check_owned(&slice.elem, role),
        Type::Group(group) => check_owned(&group.elem, role),
        Type::Paren(paren) => check_owned(&paren.elem, role),
        Type::Tuple(tuple) => tuple.elems.iter().try_for_each(|ty| check_owned(ty, role)),
        Type::Path(path) => path.path.segments.iter().try_for_each(|segment| check_arguments(segment, role)),
        Type::TraitObject(object) => object.bounds.iter().try_for_each(|bound| match bound {
            TypeParamBound::Lifetime(lifetime) => check_lifetime(lifetime, role),
            _ => Ok(()),
        }),
        _ => Ok(()),
    }
}

fn check_arguments(segment: &PathSegment, role: Role) -> syn::Result<()> {
    // The references in `Fn(&str)` have lifetimes of their own.
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return Ok(()) };
    arguments.args.iter().try_for_each(|argument| match argument {
        GenericArgument::Type(ty) => check_owned(ty, role),
        GenericArgument::Lifetime(lifetime) => check_lifetime(lifetime, role),
        _ => Ok(()),
    })
}

fn check_lifetime(lifetime: &syn::Lifetime, role: Role) -> syn::Result<()> {
    if lifetime.ident == "static" { Ok(()) } else { Err(Error::new_spanned(lifetime, borrowed(role))) }
}

fn borrowed(role: Role) -> &'static str {
    match role {
        Role::Argument => {
            "a message outlives its sender's borrows: take an owned value (`String`, `Vec<T>`, `Arc<T>`), or a `&'static` one"
        }
        Role::Answer => {
            "a reply outlives the borrow of the state: return an owned value (`String`, `Vec<T>`, `Arc<T>`)"
        }
    }
}

/// The last segment of a type that is a path.
pub(crate) fn last_segment(ty: &Type) -> Option<&PathSegment> {
    match ty {
        Type::Path(path) => path.path.segments.last(),
        Type::Group(group) => last_segment(&group.elem),
        Type::Paren(paren) => last_segment(&paren.elem),
        _ => None,
    }
}

/// The type behind a reference, if it is a path that ends in this name: `&mut Context<Self>`.
pub(crate) fn is_reference_to(ty: &Type, name: &str) -> bool {
    match ty {
        Type::Reference(reference) => last_segment(&reference.elem).is_some_and(|segment| segment.ident == name),
        Type::Group(group) => is_reference_to(&group.elem, name),
        _ => false,
    }
}

/// The types in `Name<A, B>`, if the path ends in this name.
pub(crate) fn arguments_of<'t>(ty: &'t Type, name: &str) -> Option<Vec<&'t Type>> {
    let segment = last_segment(ty).filter(|segment| segment.ident == name)?;
    let PathArguments::AngleBracketed(arguments) = &segment.arguments else { return Some(Vec::new()) };
    Some(
        arguments
            .args
            .iter()
            .filter_map(|argument| match argument {
                GenericArgument::Type(ty) => Some(ty),
                _ => None,
            })
            .collect(),
    )
}

/// The type that a function returns, unless it is `()`.
pub(crate) fn returned(output: &ReturnType) -> Option<&Type> {
    match output {
        ReturnType::Default => None,
        ReturnType::Type(_, ty) => match &**ty {
            Type::Tuple(tuple) if tuple.elems.is_empty() => None,
            ty => Some(ty),
        },
    }
}

/// Replaces `Self`, for code outside the impl block of `self_ty`, and `Self::Error` and the like, which an inherent impl
/// cannot name.
pub(crate) struct SelfType<'t> {
    pub(crate) ty: &'t Type,
    pub(crate) krate: &'t Path,
}

impl SelfType<'_> {
    /// The type as it is written outside the impl block.
    pub(crate) fn outside(&self, tokens: impl ToTokens) -> TokenStream {
        self.replace(tokens.into_token_stream(), true)
    }

    /// The same inside of the impl block, where only `Self::Error` and the like are replaced.
    pub(crate) fn inside(&self, tokens: impl ToTokens) -> TokenStream {
        self.replace(tokens.into_token_stream(), false)
    }

    fn replace(&self, tokens: TokenStream, outside: bool) -> TokenStream {
        let (ty, krate) = (self.ty, self.krate);
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut replaced = TokenStream::new();
        for (at, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => {
                    let mut inner = Group::new(group.delimiter(), self.replace(group.stream(), outside));
                    inner.set_span(group.span());
                    replaced.extend([TokenTree::Group(inner)]);
                }
                TokenTree::Ident(ident) if ident == "Self" => replaced.extend(match associated(&tokens[at + 1..]) {
                    Some(name) if is_of_worker(name) => quote_spanned!(ident.span()=> <#ty as #krate::Worker>),
                    _ if !outside => quote!(#ident),
                    Some(_) => quote!(<#ty>),
                    None => quote!(#ty),
                }),
                token => replaced.extend([token.clone()]),
            }
        }
        replaced
    }
}

/// The name in `::Name`, if the tokens begin like that.
fn associated(tokens: &[TokenTree]) -> Option<&Ident> {
    match tokens {
        [TokenTree::Punct(first), TokenTree::Punct(second), TokenTree::Ident(name), ..]
            if first.as_char() == ':' && first.spacing() == Spacing::Joint && second.as_char() == ':' =>
        {
            Some(name)
        }
        _ => None,
    }
}

fn is_of_worker(name: &Ident) -> bool {
    ["Key", "Args", "Message", "Error"].iter().any(|associated| name == associated)
}

/// Whether the tokens contain this name.
pub(crate) fn mentions(tokens: TokenStream, name: &Ident) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Group(group) => mentions(group.stream(), name),
        TokenTree::Ident(ident) => ident == *name,
        _ => false,
    })
}
