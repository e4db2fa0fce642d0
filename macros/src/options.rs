//! The options of the attribute: `#[worker(key = String, message = pub Command)]`.

use proc_macro2::Span;
use syn::ext::IdentExt;
use syn::parse::{Parse, ParseStream};
use syn::{Error, Ident, Path, Result, Token, Type, Visibility};

/// What the attribute says.
#[derive(Default)]
pub(crate) struct Options {
    pub(crate) key: Option<Type>,
    pub(crate) error: Option<Type>,
    pub(crate) message: Option<Named>,
    pub(crate) client: Option<Named>,
    pub(crate) krate: Option<Path>,
}

/// The name of a generated item, and its visibility if that is written too.
pub(crate) struct Named {
    pub(crate) vis: Option<Visibility>,
    pub(crate) ident: Ident,
}

impl Parse for Named {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let vis = match input.parse()? {
            Visibility::Inherited => None,
            vis => Some(vis),
        };
        Ok(Self { vis, ident: input.parse()? })
    }
}

impl Parse for Options {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        let mut options = Self::default();
        while !input.is_empty() {
            let name = input.call(Ident::parse_any)?;
            input.parse::<Token![=]>().map_err(|_| Error::new_spanned(&name, format!("expected `{name} = ..`")))?;
            match name.to_string().as_str() {
                "key" => set(&mut options.key, &name, input)?,
                "error" => set(&mut options.error, &name, input)?,
                "message" => set(&mut options.message, &name, input)?,
                "client" => set(&mut options.client, &name, input)?,
                "crate" => set(&mut options.krate, &name, input)?,
                _ => return Err(Error::new_spanned(&name, UNKNOWN)),
            }
            if !input.is_empty() {
                input.parse::<Token![,]>()?;
            }
        }
        Ok(options)
    }
}

const UNKNOWN: &str = "unknown option: `#[worker]` has `key = Type`, `error = Type`, `message = Name`, `client = Name` and `crate = path`";

fn set<T: Parse>(option: &mut Option<T>, name: &Ident, input: ParseStream<'_>) -> Result<()> {
    if option.replace(input.parse()?).is_some() {
        return Err(Error::new_spanned(name, format!("`{name}` is set twice")));
    }
    Ok(())
}

impl Options {
    /// The path of the library.
    pub(crate) fn krate(&self) -> Path {
        self.krate.clone().unwrap_or_else(|| syn::parse_quote_spanned!(Span::call_site()=> ::gen_registry))
    }
}
