//! From the impl block to what is generated beside it.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote};
use syn::{
    Error, Generics, Ident, ImplItem, ImplItemFn, ItemImpl, Path, Result, Signature, Type, Visibility, parse_quote,
};

use crate::lifecycle::{Init, Lifecycle};
use crate::message;
use crate::message::{Kind, Message};
use crate::options::{Named, Options};
use crate::types::{SelfType, last_segment};

/// A worker that can be generated.
pub(crate) struct Worker {
    pub(crate) ty: Type,
    /// The name of the type, for documentation.
    pub(crate) name: Ident,
    pub(crate) krate: Path,
    pub(crate) generics: Generics,
    pub(crate) key: Type,
    pub(crate) error: Type,
    pub(crate) message: Ident,
    pub(crate) message_vis: Visibility,
    pub(crate) client: Ident,
    pub(crate) client_vis: Visibility,
    pub(crate) init: Init,
    pub(crate) lifecycle: Lifecycle,
    pub(crate) messages: Vec<Message>,
}

impl Worker {
    pub(crate) fn self_type(&self) -> SelfType<'_> {
        SelfType { ty: &self.ty, krate: &self.krate }
    }
}

/// Collects the errors, so that the compiler shows all of them.
#[derive(Default)]
struct Errors(Option<Error>);

impl Errors {
    fn add(&mut self, error: Error) {
        match &mut self.0 {
            Some(errors) => errors.combine(error),
            none => *none = Some(error),
        }
    }

    /// The value, or `None` after noting the error.
    fn take<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.add(error)).ok()
    }
}

/// The user's block without the marks, and what is made of it. After an error in one method, the others are still
/// generated: otherwise the compiler would report every use of them too.
pub(crate) fn expand(options: Options, mut item: ItemImpl) -> TokenStream {
    let mut errors = Errors::default();
    let generated = match check(&item) {
        Ok(name) => worker(options, name, &mut item, &mut errors).map(|worker| worker.generate()),
        Err(error) => {
            errors.add(error);
            None
        }
    };
    let errors = errors.0.map(Error::into_compile_error);
    // A second implementation of a trait would only hide the advice.
    let item = if item.trait_.is_none() { item.into_token_stream() } else { TokenStream::new() };
    quote!(#item #generated #errors)
}

/// The name of the worker's type.
fn check(item: &ItemImpl) -> Result<Ident> {
    if let Some((path, _)) = &item.trait_ {
        return Err(Error::new_spanned(
            path,
            "`#[worker]` makes the implementation of `Worker`: put it on an inherent block, `impl Denylist { .. }`",
        ));
    }
    if let Some(lifetime) = item.generics.lifetimes().next() {
        return Err(Error::new_spanned(
            lifetime,
            "a worker outlives every borrow: let the state own its data, or share it by `Arc`",
        ));
    }
    // The type is in a group if it comes from a `ty` fragment of a `macro_rules!`.
    let name = last_segment(&item.self_ty).map(|segment| segment.ident.clone());
    name.ok_or_else(|| Error::new_spanned(&item.self_ty, "a worker is a struct or an enum"))
}

fn worker(options: Options, name: Ident, item: &mut ItemImpl, errors: &mut Errors) -> Option<Worker> {
    let krate = options.krate();
    let this = SelfType { ty: &item.self_ty.clone(), krate: &krate };
    let (mut messages, mut lifecycle) = (Vec::new(), Lifecycle::default());
    // A broken `init` is reported once.
    let mut has_init = false;
    for item in &mut item.items {
        let ImplItem::Fn(method) = item else { continue };
        match message::take(method) {
            Some(message) => {
                messages.extend(errors.take(message));
                method.attrs.push(parse_quote!(#[allow(clippy::needless_pass_by_value, clippy::trivially_copy_pass_by_ref, clippy::unused_async, clippy::unused_self)]));
            }
            None => {
                has_init |= method.sig.ident == "init";
                if errors.take(lifecycle.note(method)) != Some(true) {
                    continue;
                }
                method.attrs.push(parse_quote!(#[allow(clippy::needless_pass_by_value, clippy::unnecessary_wraps, clippy::unused_async, clippy::unused_self)]));
            }
        }
        name_associated_types(method, &this);
    }
    check_names(&mut messages, errors);
    let Some(init) = lifecycle.init.take() else {
        if has_init {
            remove_init(item);
        } else {
            errors.add(Error::new_spanned(&item.self_ty, NO_INIT));
        }
        return None;
    };
    let Some(key) = options.key else {
        errors.add(Error::new(Span::call_site(), "name the type of the worker's key: `#[worker(key = String)]`"));
        return None;
    };
    let error = match options.error {
        Some(error) => error,
        None => errors.take(init.error()).or_else(|| {
            remove_init(item);
            None
        })?,
    };
    let vis = widest(&messages);
    let (message, message_vis) = named(options.message, &vis, || Ident::new(&format!("{name}Message"), name.span()));
    let (client, client_vis) = named(options.client, &vis, || Ident::new(&format!("{name}Client"), name.span()));
    Some(Worker {
        ty: (*item.self_ty).clone(),
        name,
        krate,
        generics: item.generics.clone(),
        key,
        error,
        message,
        message_vis,
        client,
        client_vis,
        init,
        lifecycle,
        messages,
    })
}

/// An `init` with an error is reported. Without a worker, the types that it names would be reported too.
fn remove_init(item: &mut ItemImpl) {
    item.items.retain(|item| !matches!(item, ImplItem::Fn(method) if method.sig.ident == "init"));
}

const NO_INIT: &str = "a worker needs `init`, which makes its state: `async fn init(args: Args, ctx: &mut Context<Self>) -> Result<Self, Error>`, or shorter: `fn init() -> Self`";

/// An inherent impl cannot name `Self::Error`. The macro can.
fn name_associated_types(method: &mut ImplItemFn, this: &SelfType<'_>) {
    if let Ok(signature) = syn::parse2::<Signature>(this.inside(&method.sig)) {
        method.sig = signature;
    }
}

/// The client has one method of each name.
fn check_names(messages: &mut Vec<Message>, errors: &mut Errors) {
    let calls = messages.iter().filter(|message| message.kind == Kind::Call && !message.is_internal);
    let taken: Vec<Ident> = calls.map(Message::with_timeout).collect();
    messages.retain(|message| {
        let is_free = message.is_internal || !taken.contains(&message.method);
        if !is_free {
            let name = &message.method;
            let advice = format!("the client has `{name}` already, a call with a timeout: choose another name");
            errors.add(Error::new_spanned(name, advice));
        }
        is_free
    });
}

fn named(option: Option<Named>, vis: &Visibility, default: impl FnOnce() -> Ident) -> (Ident, Visibility) {
    match option {
        Some(Named { vis: Some(vis), ident }) => (ident, vis),
        Some(Named { vis: None, ident }) => (ident, vis.clone()),
        None => (default(), vis.clone()),
    }
}

/// The visibility of the most visible message.
fn widest(messages: &[Message]) -> Visibility {
    fn rank(vis: &Visibility) -> u8 {
        match vis {
            Visibility::Public(_) => 3,
            Visibility::Restricted(restricted) if restricted.path.is_ident("crate") => 2,
            Visibility::Restricted(_) => 1,
            Visibility::Inherited => 0,
        }
    }
    messages.iter().map(|message| &message.vis).max_by_key(|vis| rank(vis)).cloned().unwrap_or(Visibility::Inherited)
}
