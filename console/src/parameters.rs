//! [`Parameters`]: those of an address, each read once, bounded, and named in what is refused.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;

use crate::failure::Failure;

/// The longest value of a parameter, in bytes. A key may be that long.
pub(crate) const LONGEST: usize = 4_096;
/// More than any route has.
const MOST: usize = 16;

/// The parameters of a request. Its handler takes those that it knows and refuses the others.
#[derive(Debug)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl<S: Sync> FromRequestParts<S> for Parameters {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Failure> {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|error| Failure::bad_parameter(format!("the parameters cannot be read: {error}")))?;
        if pairs.len() > MOST {
            return Err(Failure::bad_parameter(format!("there are more than {MOST} parameters")));
        }
        if let Some((name, _)) = pairs.iter().find(|(name, value)| name.len() + value.len() > LONGEST) {
            let name: String = name.chars().take(40).collect();
            return Err(Failure::bad_parameter(format!("{name} is longer than {LONGEST} bytes")));
        }
        Ok(Self(pairs))
    }
}

impl Parameters {
    /// The text of a parameter, or `None` if it is absent. A name that is there twice is refused by [`end`](Self::end).
    pub(crate) fn text(&mut self, name: &str) -> Option<String> {
        let at = self.0.iter().position(|(found, _)| found == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// The number of a parameter within bounds.
    pub(crate) fn number<N>(&mut self, name: &str, bounds: RangeInclusive<N>) -> Result<Option<N>, Failure>
    where
        N: FromStr + PartialOrd + Display,
    {
        let Some(text) = self.text(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if bounds.contains(&number) => Ok(Some(number)),
            _ => Err(Failure::bad_parameter(format!(
                "{name} must be a whole number from {} to {}",
                bounds.start(),
                bounds.end()
            ))),
        }
    }

    /// One of a few words, or the first of them if the parameter is absent.
    pub(crate) fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<T, Failure> {
        let Some(text) = self.text(name).filter(|text| !text.is_empty()) else { return Ok(choices[0].1) };
        let found = choices.iter().find(|(word, _)| *word == text);
        found.map(|(_, choice)| *choice).ok_or_else(|| {
            let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
            Failure::bad_parameter(format!("{name} must be one of {}", words.join(", ")))
        })
    }

    /// Refuses what no handler has taken: a parameter that is ignored would look as if it worked.
    pub(crate) fn end(self) -> Result<(), Failure> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(40).collect();
                Err(Failure::bad_parameter(format!("{name:?} is not a parameter of this route, or is there twice")))
            }
        }
    }
}
