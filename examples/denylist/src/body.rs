//! The bodies of requests: [`Call`] and [`NewRules`], read from an [`Object`].

use std::collections::BTreeSet;

use utoipa::ToSchema;

use crate::phone_number::{Caller, PhoneNumber};
use crate::problem::Problem;
pub use crate::request::Object;
use crate::request::{self, missing, parse};
use crate::rule::Rule;

/// A call to decide on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Absent or null if the caller hides the number.
    #[schema(required = false, nullable)]
    pub from: Caller,
    /// The phone that rings.
    pub to: PhoneNumber,
}

impl TryFrom<Object> for Call {
    type Error = Problem;

    fn try_from(object: Object) -> Result<Self, Problem> {
        let [from, to] = object.fields(["from", "to"])?;
        let from = match from.filter(|from| !from.is_null()) {
            Some(from) => parse("from", &request::text("from", from)?)?,
            None => Caller::Anonymous,
        };
        let to = request::text("to", to.ok_or_else(|| missing("to"))?)?;
        Ok(Self { from, to: parse("to", &to)? })
    }
}

/// All rules of a phone.
#[derive(Debug, Clone, PartialEq, Eq, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRules {
    /// A repeated rule counts once.
    #[schema(value_type = Vec<Rule>)]
    pub rules: BTreeSet<Rule>,
}

impl TryFrom<Object> for NewRules {
    type Error = Problem;

    fn try_from(object: Object) -> Result<Self, Problem> {
        let [rules] = object.fields(["rules"])?;
        let rules = request::list("rules", rules.ok_or_else(|| missing("rules"))?)?;
        let rules = rules.into_iter().enumerate().map(|(index, rule)| {
            let name = format!("rules[{index}]");
            parse(&name, &request::text(&name, rule)?)
        });
        Ok(Self { rules: rules.collect::<Result<_, _>>()? })
    }
}
