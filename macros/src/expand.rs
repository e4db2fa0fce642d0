//! What is generated: the message enum, the implementation of `Worker`, and the client's trait.

use proc_macro2::{Span, TokenStream};
use quote::{format_ident, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Attribute, Ident, TypeGenerics};

use crate::lifecycle::Written;
use crate::message::{Answer, Kind, Message, Param, bare};
use crate::types::mentions;
use crate::worker::Worker;

/// Where names are the macro's own, and errors are reported at the method.
fn at(message: &Message) -> Span {
    Span::mixed_site().located_at(message.method.span())
}

fn doc(text: &str) -> TokenStream {
    quote!(#[doc = #text])
}

impl Worker {
    pub(crate) fn generate(&self) -> TokenStream {
        let (enumeration, debug, worker) = (self.enumeration(), self.debug(), self.implementation());
        let (dispatch, client) = (self.dispatch(), self.client());
        quote!(#enumeration #debug #worker #dispatch #client)
    }

    /// The generics of the enum and of the client are those of the impl block.
    fn arguments(&self) -> TypeGenerics<'_> {
        self.generics.split_for_impl().1
    }

    fn bounds(&self) -> TokenStream {
        self.self_type().outside(&self.generics.where_clause)
    }

    /// The message enum, as a type.
    fn message_type(&self) -> TokenStream {
        let (message, arguments) = (&self.message, self.arguments());
        quote!(#message #arguments)
    }

    /// The enum's name, as the path before a variant.
    fn message_path(&self) -> TokenStream {
        let (message, arguments) = (&self.message, self.arguments());
        let turbofish = arguments.as_turbofish();
        quote!(#message #turbofish)
    }

    fn enumeration(&self) -> TokenStream {
        let (vis, message, generics, bounds) = (&self.message_vis, &self.message, &self.generics, self.bounds());
        let title = doc(&format!("The messages of `{}`: one for each of its calls and casts.", self.name));
        let variants = self.messages.iter().map(|message| self.variant(message));
        let unused = self.unused_variant();
        quote! {
            #title
            #vis enum #message #generics #bounds { #(#variants,)* #unused }
        }
    }

    fn variant(&self, message: &Message) -> TokenStream {
        let (krate, this) = (&self.krate, self.self_type());
        let Message { cfgs, docs, variant, method, .. } = message;
        let method = method.to_string();
        let docs = docs.iter().filter(|attribute| attribute.path().is_ident("doc"));
        let docs =
            if has_doc(&message.docs) { quote!(#(#docs)*) } else { doc(&format!("A call or cast of `{method}`.")) };
        let reply = message.answer.as_ref().map(|Answer { ty, field }| {
            let span = at(message);
            let ty = ty.as_ref().map_or_else(|| quote_spanned!(span=> ()), |ty| this.outside(ty));
            (field, quote_spanned!(span=> #krate::Reply<#ty>))
        });
        let mut fields: Vec<TokenStream> = message
            .params
            .iter()
            .filter_map(|param| match param {
                Param::Field(field) => {
                    let (ident, ty) = (&field.ident, this.outside(&field.ty));
                    let described = doc(&format!("The argument `{ident}` of `{method}`."));
                    let docs = if field.docs.is_empty() {
                        described
                    } else {
                        field.docs.iter().map(|doc| quote!(#doc)).collect()
                    };
                    Some(quote!(#docs #ident: #ty))
                }
                _ => None,
            })
            .collect();
        let form = match reply {
            None if fields.is_empty() => TokenStream::new(),
            None => quote!({ #(#fields),* }),
            Some((_, ty)) if fields.is_empty() => quote!((#ty)),
            Some((field, ty)) => {
                let docs = doc(&format!("Takes the answer of `{method}`."));
                fields.push(quote!(#docs #field: #ty));
                quote!({ #(#fields),* })
            }
        };
        quote!(#(#cfgs)* #docs #variant #form)
    }

    /// The type parameters of the worker that are in no message.
    fn unused_parameters(&self) -> Vec<&Ident> {
        let variants: Vec<TokenStream> = self.messages.iter().map(|message| self.variant(message)).collect();
        let is_unused = |name: &Ident| !variants.iter().any(|variant| mentions(variant.clone(), name));
        self.generics.type_params().map(|parameter| &parameter.ident).filter(|name| is_unused(name)).collect()
    }

    /// A variant that cannot be made, if there are such parameters. By pointers, because a parameter may be `?Sized`.
    fn unused_variant(&self) -> Option<TokenStream> {
        let unused = self.unused_parameters();
        (!unused.is_empty()).then(|| {
            quote! {
                #[doc(hidden)]
                __Unused(::core::convert::Infallible, ::core::marker::PhantomData<fn(#(*const #unused),*)>),
            }
        })
    }

    /// Whether the enum has no variant that can be made, so that a match on a message has no arm.
    fn has_no_messages(&self) -> bool {
        self.messages.is_empty()
    }

    /// The arguments need not be `Debug`, and may be secret.
    fn debug(&self) -> TokenStream {
        let (span, ty, bounds) = (Span::mixed_site(), self.message_type(), self.bounds());
        let parameters = self.generics.split_for_impl().0;
        let arms = self.messages.iter().map(|message| {
            let (cfgs, variant, name) = (&message.cfgs, &message.variant, message.variant.to_string());
            quote_spanned!(span=> #(#cfgs)* Self::#variant { .. } => #name,)
        });
        // Behind a reference, the compiler demands an arm for a variant that cannot be made.
        let unused = (!self.unused_parameters().is_empty())
            .then(|| quote_spanned!(span=> Self::__Unused(never, _) => match *never {},));
        let (f, body) = match (self.has_no_messages(), unused) {
            (true, None) => (quote_spanned!(span=> _), quote_spanned!(span=> match *self {})),
            (true, Some(unused)) => (quote_spanned!(span=> _), quote_spanned!(span=> match self { #unused })),
            (false, unused) => {
                (quote_spanned!(span=> f), quote_spanned!(span=> f.write_str(match self { #(#arms)* #unused })))
            }
        };
        quote_spanned! {span=>
            /// Prints the name of the message without its arguments.
            #[automatically_derived]
            impl #parameters ::core::fmt::Debug for #ty #bounds {
                fn fmt(&self, #f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                    #body
                }
            }
        }
    }

    fn implementation(&self) -> TokenStream {
        let Self { krate, ty, key, error, init, lifecycle, .. } = self;
        let (message, args) = (self.message_type(), init.args());
        let (parameters, _, bounds) = self.generics.split_for_impl();
        let init = init.of_the_trait(&self.self_type());
        let run = lifecycle.run.as_ref().map(|run| self.run(run));
        let terminate = lifecycle.terminate.as_ref().map(|terminate| self.terminate(terminate));
        let handle = match &lifecycle.handle {
            Some(handle) => self.written_handle(handle),
            None => {
                let body = self.body_of_handle();
                quote!(async fn handle #body)
            }
        };
        quote! {
            #[automatically_derived]
            impl #parameters #krate::Worker for #ty #bounds {
                type Key = #key;
                type Args = #args;
                type Message = #message;
                type Error = #error;

                #init
                #[allow(deprecated)]
                #handle
                #run
                #terminate
            }
        }
    }

    /// The parameters and the body of `handle`.
    fn body_of_handle(&self) -> TokenStream {
        let (span, krate, ty, message) = (Span::mixed_site(), &self.krate, &self.ty, self.message_type());
        let uses_context =
            self.messages.iter().flat_map(|message| &message.params).any(|param| matches!(param, Param::Context));
        let ctx = if uses_context { quote_spanned!(span=> ctx) } else { quote_spanned!(span=> _) };
        let arms = self.messages.iter().map(|message| self.arm(message));
        let body = if self.has_no_messages() {
            quote_spanned!(span=> match message {})
        } else {
            quote_spanned!(span=> match message { #(#arms)* } ::core::result::Result::Ok(()))
        };
        quote_spanned! {span=>
            (
                &mut self,
                message: #message,
                #ctx: &mut #krate::Context<#ty>,
            ) -> ::core::result::Result<(), <#ty as #krate::Worker>::Error> {
                #body
            }
        }
    }

    fn arm(&self, message: &Message) -> TokenStream {
        let (span, path, ty) = (at(message), self.message_path(), &self.ty);
        let Message { cfgs, variant, method, .. } = message;
        let pattern = pattern(message);
        let passed = message.params.iter().map(|param| match param {
            Param::Field(field) => {
                let ident = &field.ident;
                quote!(#ident)
            }
            Param::Reply(ident) => quote!(#ident),
            Param::Context => quote_spanned!(span=> ctx),
        });
        let called = quote_spanned!(span=> <#ty>::#method(self, #(#passed),*));
        let called = if message.is_async { quote_spanned!(span=> #called.await) } else { called };
        let done = match (&message.answer, &message.fails) {
            (Some(Answer { field, .. }), _) if !message.takes_reply() => quote_spanned!(span=> #field.send(#called)),
            // A failing conversion is reported at the type of the error.
            (_, Some(ty)) => quote_spanned!(Span::mixed_site().located_at(ty.span())=> #called?),
            _ => called,
        };
        quote_spanned!(span=> #(#cfgs)* #path::#variant #pattern => #done,)
    }

    /// `handle` is written: its code reaches the messages through `dispatch`.
    fn dispatch(&self) -> Option<TokenStream> {
        self.lifecycle.handle.as_ref()?;
        let (ty, body) = (&self.ty, self.body_of_handle());
        let (parameters, _, bounds) = self.generics.split_for_impl();
        Some(quote! {
            #[automatically_derived]
            impl #parameters #ty #bounds {
                /// Calls the method of the message.
                #[allow(deprecated)]
                async fn dispatch #body
            }
        })
    }

    fn written_handle(&self, handle: &Written) -> TokenStream {
        let (span, krate, ty) = (Span::mixed_site().located_at(handle.method.span()), &self.krate, &self.ty);
        quote_spanned! {span=>
            fn handle(
                &mut self,
                message: Self::Message,
                ctx: &mut #krate::Context<Self>,
            ) -> impl ::core::future::Future<Output = ::core::result::Result<(), Self::Error>> + ::core::marker::Send {
                <#ty>::handle(self, message, ctx)
            }
        }
    }

    fn run(&self, run: &Written) -> TokenStream {
        let (span, krate, ty, cfgs) =
            (Span::mixed_site().located_at(run.method.span()), &self.krate, &self.ty, &run.cfgs);
        quote_spanned! {span=>
            #(#cfgs)*
            fn run(
                &mut self,
                mailbox: &mut #krate::Mailbox<Self::Message>,
                ctx: &mut #krate::Context<Self>,
            ) -> impl ::core::future::Future<Output = ::core::result::Result<(), Self::Error>> + ::core::marker::Send {
                <#ty>::run(self, mailbox, ctx)
            }
        }
    }

    fn terminate(&self, terminate: &Written) -> TokenStream {
        let Written { method, cfgs, is_async, has_reason, has_context } = terminate;
        let (span, krate, ty) = (Span::mixed_site().located_at(method.span()), &self.krate, &self.ty);
        let (reason, ctx) = (format_ident!("reason", span = span), format_ident!("ctx", span = span));
        let passed = has_reason.then_some(&reason).into_iter().chain(has_context.then_some(&ctx));
        let called = quote_spanned!(span=> <#ty>::terminate(self, #(#passed),*));
        let called = if *is_async { quote_spanned!(span=> #called.await) } else { called };
        let reason = if *has_reason { quote!(#reason) } else { quote!(_) };
        let ctx = if *has_context { quote!(#ctx) } else { quote!(_) };
        quote_spanned! {span=>
            #(#cfgs)*
            async fn terminate(self, #reason: &#krate::ExitReason, #ctx: &mut #krate::Context<Self>) {
                #called
            }
        }
    }

    fn client(&self) -> Option<TokenStream> {
        let (krate, ty, client, vis) = (&self.krate, &self.ty, &self.client, &self.client_vis);
        let messages: Vec<&Message> = self.messages.iter().filter(|message| !message.is_internal).collect();
        if messages.is_empty() {
            return None;
        }
        let (generics, bounds) = (&self.generics, self.bounds());
        let (parameters, arguments, _) = generics.split_for_impl();
        let title = doc(&format!(
            "Sends to `{0}`: the methods of `WorkerHandle<{0}>` and `Via<{0}>`. Import it where they are called.",
            self.name
        ));
        let declared = messages.iter().map(|message| {
            let declarations = self.client_methods(message).into_iter().map(|method| {
                let ClientMethod { docs, cfgs, signature, .. } = method;
                quote!(#docs #cfgs #signature;)
            });
            quote!(#(#declarations)*)
        });
        let implementations = ["WorkerHandle", "Via"].map(|target| {
            let target = format_ident!("{target}");
            let methods = messages.iter().flat_map(|message| self.client_methods(message)).map(|method| {
                let ClientMethod { cfgs, signature, body, .. } = method;
                // Of a worker without parameters, it would not be inlined in another crate or codegen unit.
                quote!(#[inline] #cfgs #signature { #body })
            });
            quote! {
                #[automatically_derived]
                #[allow(deprecated, clippy::too_many_arguments)]
                impl #parameters #client #arguments for #krate::#target<#ty> #bounds { #(#methods)* }
            }
        });
        Some(quote! {
            #title
            #[allow(dead_code, clippy::too_many_arguments)]
            #vis trait #client #generics #bounds { #(#declared)* }
            #(#implementations)*
        })
    }

    fn client_methods(&self, message: &Message) -> Vec<ClientMethod> {
        match message.kind {
            Kind::Cast => vec![self.client_method(message, false)],
            Kind::Call => vec![self.client_method(message, false), self.client_method(message, true)],
        }
    }

    fn client_method(&self, message: &Message, has_timeout: bool) -> ClientMethod {
        let (span, krate, ty, this) = (at(message), &self.krate, &self.ty, self.self_type());
        let (path, variant, pattern) = (self.message_path(), &message.variant, pattern(message));
        let (method, cfgs) = (&message.method, &message.cfgs);
        let arguments = message.fields().map(|field| {
            let (ident, ty) = (&field.ident, this.outside(&field.ty));
            quote!(#ident: #ty)
        });
        let name = if has_timeout { message.with_timeout() } else { method.clone() };
        let timeout = has_timeout.then(|| quote_spanned!(span=> timeout: ::core::time::Duration,));
        let (output, body) = match &message.answer {
            None => (
                quote_spanned!(span=> (), #krate::SendError<#ty>),
                quote_spanned!(span=> self.cast(#path::#variant #pattern)),
            ),
            Some(Answer { ty: answer, field }) => {
                let answer = answer.as_ref().map_or_else(|| quote_spanned!(span=> ()), |answer| this.outside(answer));
                let make = quote_spanned!(span=> move |#field| #path::#variant #pattern);
                let body = if has_timeout {
                    quote_spanned!(span=> self.call_timeout(timeout, #make))
                } else {
                    quote_spanned!(span=> self.call(#make))
                };
                (quote_spanned!(span=> #answer, #krate::CallError<#ty>), body)
            }
        };
        let signature = quote_spanned! {span=>
            fn #name(
                &self,
                #timeout
                #(#arguments),*
            ) -> impl ::core::future::Future<Output = ::core::result::Result<#output>> + ::core::marker::Send
        };
        let docs = client_docs(message, has_timeout);
        ClientMethod { docs, cfgs: quote!(#(#cfgs)*), signature, body }
    }
}

struct ClientMethod {
    docs: TokenStream,
    cfgs: TokenStream,
    signature: TokenStream,
    body: TokenStream,
}

/// The fields of a variant, for a pattern and for an expression alike.
fn pattern(message: &Message) -> TokenStream {
    let fields: Vec<&Ident> = message.fields().map(|field| &field.ident).collect();
    match &message.answer {
        None if fields.is_empty() => TokenStream::new(),
        None => quote!({ #(#fields),* }),
        Some(Answer { field, .. }) if fields.is_empty() => quote!((#field)),
        Some(Answer { field, .. }) => quote!({ #(#fields,)* #field }),
    }
}

fn has_doc(docs: &[Attribute]) -> bool {
    docs.iter().any(|attribute| attribute.path().is_ident("doc"))
}

/// The user's documentation, and what the way to the worker adds to it.
fn client_docs(message: &Message, has_timeout: bool) -> TokenStream {
    let (docs, name) = (&message.docs, bare(&message.method));
    let errors = match (message.kind, has_timeout) {
        (Kind::Cast, _) => "Those of `cast` of a handle or an address.",
        (Kind::Call, false) => "Those of `call` of a handle or an address.",
        (Kind::Call, true) => "Those of `call_timeout` of a handle or an address.",
    };
    let errors = format!("# Errors\n\n{errors}");
    if has_timeout {
        let deprecated = docs.iter().filter(|attribute| attribute.path().is_ident("deprecated"));
        let like = format!(
            "Like [`{name}`](Self::{name}), with a timeout that covers the wait for room and for the reply.\n\n{errors}"
        );
        return quote!(#(#deprecated)* #[doc = #like]);
    }
    let title = (!has_doc(docs)).then(|| doc(&format!("Sends `{}`.", message.variant)));
    let errors = format!("\n\n{errors}");
    quote!(#title #(#docs)* #[doc = #errors])
}
