//! A call or a cast: a method that is marked as one, and what the message enum, the dispatch and the client need of it.

use proc_macro2::Span;
use syn::punctuated::Punctuated;
use syn::{
    Attribute, Error, FnArg, Ident, ImplItemFn, Meta, Pat, PatType, Receiver, ReceiverKind, Result, Safety, Signature,
    Token, Type, Visibility,
};

use crate::types::{Role, arguments_of, check_owned, is_reference_to, last_segment, returned};

/// Methods of handles and addresses. The client's methods are found after these, and would never be called.
pub(crate) const RESERVED: [&str; 20] = [
    "call",
    "call_timeout",
    "call_with_retry",
    "cast",
    "cast_timeout",
    "closed",
    "crash",
    "id",
    "incarnation",
    "info",
    "key",
    "kill",
    "reserve",
    "run_ended",
    "state",
    "stop",
    "stop_with",
    "try_call",
    "try_cast",
    "try_reserve",
];
/// Methods of the prelude's traits that handles and addresses have.
const OF_THE_PRELUDE: [&str; 6] = ["clone", "eq", "ne", "into", "try_into", "to_owned"];

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Call,
    Cast,
}

/// A marked method.
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// The client has no method for it.
    pub(crate) is_internal: bool,
    pub(crate) vis: Visibility,
    /// `#[cfg]`, for everything that is made of the method.
    pub(crate) cfgs: Vec<Attribute>,
    /// The documentation and `#[deprecated]`.
    pub(crate) docs: Vec<Attribute>,
    pub(crate) method: Ident,
    pub(crate) variant: Ident,
    pub(crate) is_async: bool,
    pub(crate) params: Vec<Param>,
    pub(crate) answer: Option<Answer>,
    /// The type that ends the worker if it is an `Err`.
    pub(crate) fails: Option<Type>,
}

/// A parameter of the method, in its order.
pub(crate) enum Param {
    Field(Field),
    Context,
    /// The method answers by itself.
    Reply(Ident),
}

/// An argument.
pub(crate) struct Field {
    pub(crate) ident: Ident,
    pub(crate) ty: Box<Type>,
    pub(crate) docs: Vec<Attribute>,
}

/// The reply of a call.
pub(crate) struct Answer {
    /// `None`: nothing but that the method has returned.
    pub(crate) ty: Option<Type>,
    /// The name of the field.
    pub(crate) field: Ident,
}

impl Message {
    pub(crate) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.params.iter().filter_map(|param| match param {
            Param::Field(field) => Some(field),
            _ => None,
        })
    }

    /// Whether the method takes the reply and answers by itself.
    pub(crate) fn takes_reply(&self) -> bool {
        self.params.iter().any(|param| matches!(param, Param::Reply(_)))
    }

    /// The name of the client's method with a timeout.
    pub(crate) fn with_timeout(&self) -> Ident {
        Ident::new(&format!("{}_timeout", bare(&self.method)), self.method.span())
    }
}

/// A name without `r#`.
pub(crate) fn bare(ident: &Ident) -> String {
    ident.to_string().trim_start_matches("r#").to_owned()
}

/// A mark: `#[call]`, `#[cast(internal)]`.
struct Mark {
    kind: Kind,
    is_internal: bool,
}

fn mark(attribute: &Attribute) -> Result<Option<Mark>> {
    let kind = match attribute.path().get_ident() {
        Some(name) if name == "call" => Kind::Call,
        Some(name) if name == "cast" => Kind::Cast,
        _ => return Ok(None),
    };
    let is_internal = match &attribute.meta {
        Meta::Path(_) => false,
        Meta::List(list) if list.parse_args::<Ident>().is_ok_and(|option| option == "internal") => true,
        meta => {
            return Err(Error::new_spanned(
                meta,
                "write `#[call]`, `#[cast]`, `#[call(internal)]` or `#[cast(internal)]`",
            ));
        }
    };
    Ok(Some(Mark { kind, is_internal }))
}

/// Takes the mark off a method. `None` if it has none.
pub(crate) fn take(method: &mut ImplItemFn) -> Option<Result<Message>> {
    let is_mark = |attribute: &Attribute| attribute.path().is_ident("call") || attribute.path().is_ident("cast");
    let (marks, others): (Vec<_>, Vec<_>) = std::mem::take(&mut method.attrs).into_iter().partition(is_mark);
    method.attrs = others;
    let (first, more) = marks.split_first()?;
    let message = match more {
        [] => mark(first).and_then(|mark| parse(mark.expect("the attribute is a mark"), method)),
        [second, ..] => Err(Error::new_spanned(second, "a method is one message: mark it once")),
    };
    // Not the compiler's business: a parameter of a function has no documentation.
    for input in &mut method.sig.inputs {
        if let FnArg::Typed(argument) = input {
            argument.attrs.retain(|attribute| !attribute.path().is_ident("doc"));
        }
    }
    Some(message)
}

fn parse(mark: Mark, method: &ImplItemFn) -> Result<Message> {
    let Signature { ident, inputs, output, .. } = &method.sig;
    check_signature(&method.sig)?;
    if !mark.is_internal {
        check_name(ident)?;
    }
    let params = inputs
        .iter()
        .filter_map(|input| match input {
            FnArg::Typed(argument) => Some(param(argument, mark.kind)),
            FnArg::Receiver(_) => None,
        })
        .collect::<Result<Vec<(Param, Option<Type>)>>>()?;
    check_params(&params, inputs)?;
    let reply = params.iter().find_map(|(param, answer)| match (param, answer) {
        (Param::Reply(field), Some(ty)) => Some(Answer { ty: Some(ty.clone()), field: field.clone() }),
        _ => None,
    });
    let output = returned(output);
    let (answer, fails) = match (mark.kind, reply) {
        (Kind::Cast, _) => (None, failure(output, NOT_FROM_A_CAST)?),
        (Kind::Call, Some(answer)) => (Some(answer), failure(output, NOT_BESIDE_A_REPLY)?),
        (Kind::Call, None) => {
            output.map_or(Ok(()), |ty| check_owned(ty, Role::Answer))?;
            let field = Ident::new("reply", Span::mixed_site().located_at(ident.span()));
            (Some(Answer { ty: output.cloned(), field }), None)
        }
    };
    let message = Message {
        kind: mark.kind,
        is_internal: mark.is_internal,
        vis: method.vis.clone(),
        cfgs: attributes(&method.attrs, &["cfg"]),
        docs: attributes(&method.attrs, &["doc", "deprecated"]),
        method: ident.clone(),
        variant: variant(ident),
        is_async: method.sig.asyncness.is_some(),
        params: params.into_iter().map(|(param, _)| param).collect(),
        answer,
        fails,
    };
    check_reply_field(&message)?;
    Ok(message)
}

const NOT_FROM_A_CAST: &str = "a cast has no reply: return nothing, or a `Result<(), E>` whose `Err` ends the worker. To return a value, mark the method `#[call]`";
const NOT_BESIDE_A_REPLY: &str =
    "this call answers through its `Reply`: return nothing, or a `Result<(), E>` whose `Err` ends the worker";

/// The type of a method that can end its worker, if it returns anything.
fn failure(output: Option<&Type>, advice: &str) -> Result<Option<Type>> {
    match output {
        None => Ok(None),
        Some(ty) if last_segment(ty).is_some_and(|segment| segment.ident.to_string().ends_with("Result")) => {
            Ok(Some(ty.clone()))
        }
        Some(ty) => Err(Error::new_spanned(ty, advice)),
    }
}

fn check_signature(signature: &Signature) -> Result<()> {
    match signature.receiver() {
        None => {
            return Err(Error::new_spanned(
                &signature.ident,
                "a message is handled with the state: take `&self` or `&mut self`",
            ));
        }
        Some(receiver) => check_receiver(receiver)?,
    }
    if let Some(parameter) = signature.generics.params.first() {
        return Err(Error::new_spanned(
            parameter,
            "a message has one type: write the concrete type, or make the worker generic (`impl<T> Worker<T>`)",
        ));
    }
    if let Some(clause) = &signature.generics.where_clause {
        return Err(Error::new_spanned(
            clause,
            "put the bounds on the impl block: all messages are variants of one enum",
        ));
    }
    match &signature.safety {
        Safety::Default => Ok(()),
        safety => Err(Error::new_spanned(safety, "a message can come from any task: the method must be safe")),
    }
}

fn check_receiver(receiver: &Receiver) -> Result<()> {
    match &receiver.kind {
        ReceiverKind::Reference(_, None, _) => Ok(()),
        ReceiverKind::Reference(_, Some(lifetime), _) => {
            Err(Error::new_spanned(lifetime, "no lifetime is needed: take `&self` or `&mut self`"))
        }
        ReceiverKind::Value => Err(Error::new_spanned(
            receiver,
            "a message does not consume the state: take `&mut self`. To end the worker call `ctx.stop()`; `terminate` consumes the state",
        )),
        _ => Err(Error::new_spanned(receiver, "take `&self` or `&mut self`")),
    }
}

fn check_name(name: &Ident) -> Result<()> {
    let bare = bare(name);
    if RESERVED.contains(&bare.as_str()) || OF_THE_PRELUDE.contains(&bare.as_str()) {
        let advice = format!(
            "handles and addresses have a method `{bare}` already, which would be called instead: choose another name, or mark the method `(internal)`"
        );
        return Err(Error::new_spanned(name, advice));
    }
    Ok(())
}

/// A parameter, with the type of the answer if it is the reply.
fn param(argument: &PatType, kind: Kind) -> Result<(Param, Option<Type>)> {
    if is_reference_to(&argument.ty, "Context") {
        return Ok((Param::Context, None));
    }
    if let Some(cfg) = argument.attrs.iter().find(|attribute| attribute.path().is_ident("cfg")) {
        return Err(Error::new_spanned(
            cfg,
            "a message has the same arguments in each configuration: write a method for each, with `#[cfg]` on the method",
        ));
    }
    check_owned(&argument.ty, Role::Argument)?;
    let ident = match &*argument.pat {
        Pat::Ident(pattern) if pattern.by_ref.is_none() && pattern.subpat.is_none() => pattern.ident.clone(),
        pattern => {
            return Err(Error::new_spanned(
                pattern,
                "name this argument: the message and the client's method use the name",
            ));
        }
    };
    if kind == Kind::Call {
        if let Some(&[answer]) = arguments_of(&argument.ty, "Reply").as_deref() {
            return Ok((Param::Reply(ident), Some(answer.clone())));
        }
    }
    let docs = attributes(&argument.attrs, &["doc"]);
    Ok((Param::Field(Field { ident, ty: argument.ty.clone(), docs }), None))
}

fn check_params(params: &[(Param, Option<Type>)], inputs: &Punctuated<FnArg, Token![,]>) -> Result<()> {
    let count = |is: fn(&Param) -> bool| params.iter().filter(|(param, _)| is(param)).count();
    if count(|param| matches!(param, Param::Context)) > 1 {
        return Err(Error::new_spanned(inputs, "one `ctx: &mut Context<Self>` is enough"));
    }
    if count(|param| matches!(param, Param::Reply(_))) > 1 {
        return Err(Error::new_spanned(inputs, "a call has one `Reply`"));
    }
    Ok(())
}

/// The reply's field that the macro adds must not have the name of an argument.
fn check_reply_field(message: &Message) -> Result<()> {
    if message.answer.is_none() || message.takes_reply() {
        return Ok(());
    }
    match message.fields().find(|field| field.ident == "reply") {
        Some(field) => Err(Error::new_spanned(
            &field.ident,
            "the message has its reply in a field `reply`: rename this argument, or take `reply: Reply<T>` and answer through it",
        )),
        None => Ok(()),
    }
}

/// `place_call` is `PlaceCall`.
fn variant(method: &Ident) -> Ident {
    let mut name = String::new();
    for word in bare(method).split('_') {
        let mut letters = word.chars();
        name.extend(letters.next().into_iter().flat_map(char::to_uppercase));
        name.push_str(letters.as_str());
    }
    if !name.starts_with(char::is_alphabetic) {
        // `_2fa` without its underscore is no name.
        name = bare(method);
    }
    // `Self` is the only keyword that begins with a capital letter, and `self` is not the name of a method.
    Ident::new(&name, method.span())
}

fn attributes(attributes: &[Attribute], names: &[&str]) -> Vec<Attribute> {
    let is_wanted = |attribute: &&Attribute| names.iter().any(|name| attribute.path().is_ident(name));
    attributes.iter().filter(is_wanted).cloned().collect()
}
