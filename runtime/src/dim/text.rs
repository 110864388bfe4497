//! Extents as text and as serialised data.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Atom, Dim};

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.terms.is_empty() {
            return f.write_str("0");
        }
        // Constants sort first; they read better last.
        let (constant, rest): (Vec<_>, Vec<_>) = self.terms.iter().partition(|(m, _)| m.is_empty());
        for (i, (monomial, c)) in rest.iter().chain(&constant).enumerate() {
            if i > 0 && *c >= 0 {
                f.write_str("+")?;
            }
            if monomial.is_empty() {
                write!(f, "{c}")?;
                continue;
            }
            match c {
                1 => {}
                -1 => f.write_str("-")?,
                _ => write!(f, "{c}*")?,
            }
            for (j, (atom, power)) in monomial.iter().enumerate() {
                if j > 0 {
                    f.write_str("*")?;
                }
                match atom {
                    Atom::Symbol(s) => f.write_str(s)?,
                    Atom::Op(op, args) => write!(f, "{}({},{})", op.name(), args.0, args.1)?,
                }
                if *power > 1 {
                    write!(f, "^{power}")?;
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
/// As text; in human-readable formats an extent without symbols is a plain number.
impl Serialize for Dim {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.as_const() {
            Some(v) if s.is_human_readable() => s.serialize_i64(v),
            _ => s.collect_str(self),
        }
    }
}

struct DimVisitor;

impl de::Visitor<'_> for DimVisitor {
    type Value = Dim;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer or a dimension expression")
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Dim, E> {
        v.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Dim, E> {
        Ok(v.into())
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Dim, E> {
        i64::try_from(v).map(Dim::from).map_err(|_| E::custom("the extent is too large"))
    }
}

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() { d.deserialize_any(DimVisitor) } else { d.deserialize_str(DimVisitor) }
    }
}
