//! The methods of the trait `Worker` that the user writes: `init`, `run`, `terminate`, and perhaps `handle`.

use proc_macro2::{Span, TokenStream};
use quote::quote_spanned;
use syn::{
    Attribute, Error, FnArg, Ident, ImplItemFn, PathArguments, Result, ReturnType, Signature, Type, parse_quote_spanned,
};

use crate::types::{SelfType, arguments_of, is_reference_to, last_segment, returned};

/// What the block says about the worker's life.
#[derive(Default)]
pub(crate) struct Lifecycle {
    pub(crate) init: Option<Init>,
    pub(crate) run: Option<Written>,
    pub(crate) handle: Option<Written>,
    pub(crate) terminate: Option<Written>,
}

/// `init`, in any of its forms.
pub(crate) struct Init {
    pub(crate) method: Ident,
    is_async: bool,
    params: Vec<InitParam>,
    /// `None`: it returns the state itself, and cannot fail.
    output: Option<Type>,
}

enum InitParam {
    Context,
    Args(Box<Type>),
}

/// A method with the parameters of the trait's method, or some of them.
pub(crate) struct Written {
    pub(crate) method: Ident,
    pub(crate) cfgs: Vec<Attribute>,
    pub(crate) is_async: bool,
    pub(crate) has_reason: bool,
    pub(crate) has_context: bool,
}

impl Lifecycle {
    /// Takes note of a method that is not marked. Others are the user's own.
    pub(crate) fn note(&mut self, method: &ImplItemFn) -> Result<bool> {
        let signature = &method.sig;
        match signature.ident.to_string().as_str() {
            "init" => self.init = Some(init(signature)?),
            "run" => self.run = Some(written(method, true)?),
            "handle" => self.handle = Some(written(method, true)?),
            "terminate" => self.terminate = Some(written(method, false)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

const FORM_OF_INIT: &str = "`init` makes the state: `async fn init(args: Args, ctx: &mut Context<Self>) -> Result<Self, Error>`, where all but `-> Self` may be left out";

fn init(signature: &Signature) -> Result<Init> {
    if let Some(receiver) = signature.receiver() {
        return Err(Error::new_spanned(receiver, FORM_OF_INIT));
    }
    let params = signature
        .inputs
        .iter()
        .map(|input| match input {
            FnArg::Typed(argument) if is_reference_to(&argument.ty, "Context") => Ok(InitParam::Context),
            FnArg::Typed(argument) if is_associated(&argument.ty, "Args") => {
                Err(Error::new_spanned(&argument.ty, "write the type: the worker's `Args` is taken from here"))
            }
            FnArg::Typed(argument) => Ok(InitParam::Args(argument.ty.clone())),
            FnArg::Receiver(receiver) => Err(Error::new_spanned(receiver, FORM_OF_INIT)),
        })
        .collect::<Result<_>>()?;
    let output = match &signature.output {
        ReturnType::Default => return Err(Error::new_spanned(&signature.ident, FORM_OF_INIT)),
        ReturnType::Type(_, ty) => &**ty,
    };
    let fails = last_segment(output).is_some_and(|segment| segment.ident.to_string().ends_with("Result"));
    Ok(Init {
        method: signature.ident.clone(),
        is_async: signature.asyncness.is_some(),
        params,
        output: fails.then(|| output.clone()),
    })
}

fn is_associated(ty: &Type, name: &str) -> bool {
    match ty {
        Type::Path(path) => {
            path.path.segments.len() == 2
                && path.path.segments[0].ident == "Self"
                && path.path.segments[1].ident == name
        }
        _ => false,
    }
}

fn written(method: &ImplItemFn, is_exact: bool) -> Result<Written> {
    let Signature { ident, asyncness, inputs, output, .. } = &method.sig;
    if is_exact && (asyncness.is_none() || returned(output).is_none() || method.sig.receiver().is_none()) {
        let form = if ident == "run" {
            "`run` has the form that it has in the trait: `async fn run(&mut self, mailbox: &mut Mailbox<Message>, ctx: &mut Context<Self>) -> Result<(), Error>`"
        } else {
            "`handle` has the form that it has in the trait: `async fn handle(&mut self, message: Message, ctx: &mut Context<Self>) -> Result<(), Error>`. A message of this name needs a mark, `#[call]` or `#[cast]`"
        };
        return Err(Error::new_spanned(ident, form));
    }
    let has = |name| {
        inputs.iter().any(|input| matches!(input, FnArg::Typed(argument) if is_reference_to(&argument.ty, name)))
    };
    Ok(Written {
        method: ident.clone(),
        cfgs: method.attrs.iter().filter(|attribute| attribute.path().is_ident("cfg")).cloned().collect(),
        is_async: asyncness.is_some(),
        has_reason: has("ExitReason"),
        has_context: has("Context"),
    })
}

impl Init {
    /// The type `Args`: `()`, the type of the one argument, or a tuple.
    pub(crate) fn args(&self) -> Type {
        let types: Vec<&Type> = self.args_types().collect();
        match types[..] {
            [ty] => ty.clone(),
            _ => parse_quote_spanned!(self.method.span()=> (#(#types,)*)),
        }
    }

    fn args_types(&self) -> impl Iterator<Item = &Type> {
        self.params.iter().filter_map(|param| match param {
            InitParam::Args(ty) => Some(&**ty),
            InitParam::Context => None,
        })
    }

    /// The type `Error`.
    pub(crate) fn error(&self) -> Result<Type> {
        let Some(output) = &self.output else {
            return Ok(parse_quote_spanned!(self.method.span()=> ::core::convert::Infallible));
        };
        match arguments_of(output, "Result").as_deref() {
            Some([_, error]) if is_associated(error, "Error") => {
                Err(Error::new_spanned(error, "write the type: the worker's `Error` is taken from here"))
            }
            Some([_, error]) => Ok((*error).clone()),
            // `io::Result<Self>` has the error `io::Error`, as have `anyhow` and most.
            _ => match output {
                Type::Path(path)
                    if path.path.segments.len() > 1
                        && path.path.segments.last().is_some_and(|last| last.ident == "Result") =>
                {
                    let mut error = path.clone();
                    if let Some(last) = error.path.segments.last_mut() {
                        last.ident = Ident::new("Error", last.ident.span());
                        last.arguments = PathArguments::None;
                    }
                    Ok(Type::Path(error))
                }
                _ => Err(Error::new_spanned(
                    output,
                    "which error is this? Write `Result<Self, Error>`, or `#[worker(error = Error)]`",
                )),
            },
        }
    }

    /// `init` of the trait.
    pub(crate) fn of_the_trait(&self, this: &SelfType<'_>) -> TokenStream {
        let (span, krate, ty) = (Span::mixed_site().located_at(self.method.span()), this.krate, this.ty);
        let method = &self.method;
        let count = self.args_types().count();
        let names: Vec<Ident> = (0..count).map(|n| Ident::new(&format!("arg{n}"), span)).collect();
        let args = match &names[..] {
            [arg] => quote_spanned!(span=> #arg),
            _ => quote_spanned!(span=> (#(#names,)*)),
        };
        let mut names = names.iter();
        let mut uses_context = false;
        let passed: Vec<TokenStream> = self
            .params
            .iter()
            .map(|param| match param {
                InitParam::Context => {
                    uses_context = true;
                    quote_spanned!(span=> ctx)
                }
                InitParam::Args(_) => {
                    let name = names.next();
                    quote_spanned!(span=> #name)
                }
            })
            .collect();
        let ctx = if uses_context { quote_spanned!(span=> ctx) } else { quote_spanned!(span=> _) };
        let call = quote_spanned!(span=> <#ty>::#method(#(#passed),*));
        if self.is_async && self.output.is_some() {
            return quote_spanned! {span=>
                fn init(
                    #args: Self::Args,
                    #ctx: &mut #krate::Context<Self>,
                ) -> impl ::core::future::Future<Output = ::core::result::Result<Self, Self::Error>> + ::core::marker::Send {
                    #call
                }
            };
        }
        let call = if self.is_async { quote_spanned!(span=> #call.await) } else { call };
        let made = if self.output.is_some() { call } else { quote_spanned!(span=> ::core::result::Result::Ok(#call)) };
        quote_spanned! {span=>
            async fn init(
                #args: Self::Args,
                #ctx: &mut #krate::Context<Self>,
            ) -> ::core::result::Result<Self, Self::Error> {
                #made
            }
        }
    }
}
