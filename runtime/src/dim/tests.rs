//! The normal form, evaluation, bounds and text of extents.

use super::*;
use proptest::prelude::*;

fn dim(s: &str) -> Dim {
    s.parse().unwrap()
}

#[test]
fn normal_form() {
    for (text, canonical) in [
        ("batch*seq*12", "12*batch*seq"),
        ("2 + h*2 - 1", "2*h+1"),
        ("div(4*batch*seq, 2*seq)", "2*batch"),
        ("div(seq+15,16)", "div(seq+15,16)"),
        ("mod(6*n,3)", "0"),
        ("max(n+1,n)", "n+1"),
        ("bcast(n,1)", "n"),
        ("bcast(7,n)", "7"),
        ("bcast(n,bcast(m,n))", "bcast(m,n)"),
        ("bcast(bcast(k,m),bcast(n,m))", "bcast(bcast(k,m),n)"),
        ("bcast(min(512,n),bcast(n,min(512,n)))", "n"),
        ("s*s*s - s", "-s+s^3"),
        ("s^8*s^4", "s^12"),
        ("(a+b)*(a-b)", "a^2-b^2"),
        ("0*x", "0"),
        ("-3", "-3"),
    ] {
        assert_eq!(dim(text).to_string(), canonical, "{text}");
        assert_eq!(dim(canonical), dim(text));
    }
}

#[test]
fn division_rounds_down() {
    for (a, b) in [(7, 2), (-7, 2), (7, -2), (-7, -2), (6, 3), (-6, 3), (6, -3)] {
        let q = (f64::from(a) / f64::from(b)).floor() as i64;
        assert_eq!(dim(&format!("div({a},{b})")).as_const(), Some(q), "{a}/{b}");
        assert_eq!(dim(&format!("mod({a},{b})")).as_const(), Some(i64::from(a) - q * i64::from(b)), "{a}%{b}");
    }
}

#[test]
fn errors() {
    let at = |pairs: &[(&str, i64)]| pairs.iter().map(|(k, v)| (k.to_string(), *v)).collect::<Bindings>();
    assert_eq!(dim("n").eval(&at(&[])), Err(DimError::Unbound("n".into())));
    assert!(matches!(dim("div(n,m)").eval(&at(&[("n", 1), ("m", 0)])), Err(DimError::Arithmetic(_))));
    assert!(matches!(dim("bcast(n,m)").eval(&at(&[("n", 2), ("m", 3)])), Err(DimError::Broadcast { .. })));
    assert!(matches!(dim("n-5").eval_usize(&at(&[("n", 2)])), Err(DimError::Negative(..))));
    assert!(matches!(dim("n*n").eval(&at(&[("n", i64::MAX)])), Err(DimError::Arithmetic(_))));
    for bad in ["", "2*", "foo(1,2)", "n n", "div(1)", "n^99", "((n^8)^8)^8", &"(".repeat(1000), "99999999999999999999"] {
        assert!(bad.parse::<Dim>().is_err(), "{bad}");
    }
}

fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![(-9i64..9).prop_map(|v| format!("({v})")), "[abc]".prop_map(|s| s)];
    leaf.prop_recursive(4, 24, 2, |inner| {
        (prop_oneof![Just("+"), Just("-"), Just("*"), Just("div"), Just("mod"), Just("max"), Just("min")], inner.clone(), inner)
            .prop_map(|(op, a, b)| if op.len() == 1 { format!("({a}{op}{b})") } else { format!("{op}({a},{b})") })
    })
}

/// What parses prints as text that parses: numbers beyond what text can say are refused.
#[test]
fn sums_beyond_64_bits_are_refused() {
    for text in ["-9223372036854775807-922", "4*n^2-9223372036854775807-9", "max(n,-1-13^64)"] {
        let error = text.parse::<Dim>().unwrap_err().to_string();
        assert!(error.contains("too large"), "{error}");
    }
    assert_eq!("1-9223372036854775807".parse::<Dim>().unwrap().as_const(), Some(1 - i64::MAX));
}

/// What stands for "no bound" on one side is a value like any other on the other side.
#[test]
fn bounds_hold_at_the_ends_of_the_range() {
    for (text, value) in [("div(n,16)", i64::MAX), ("div(n,16)", i64::MIN), ("n-1", i64::MAX), ("max(n,0)", i64::MAX)] {
        let d: Dim = text.parse().unwrap();
        let v = d.eval(&[("n".to_owned(), value)].into()).unwrap();
        let (low, high) = d.bounds(&|_| Some((value, value)));
        assert!(low.is_none_or(|low| low <= v) && high.is_none_or(|high| v <= high), "{text}: {v} not in {low:?}..{high:?}");
    }
}

proptest! {
    #[test]
    fn text_round_trips(text in expression()) {
        if let Ok(d) = text.parse::<Dim>() {
            prop_assert_eq!(d.to_string().parse::<Dim>().unwrap(), d);
        }
    }

    /// Bounds hold at every point of the ranges.
    #[test]
    fn values_lie_within_bounds(text in expression(), a in -3i64..9, b in 1i64..9, c in 0i64..9) {
        let bindings: Bindings = [("a", a), ("b", b), ("c", c)].map(|(k, v)| (k.to_owned(), v)).into();
        if let Ok(d) = text.parse::<Dim>() && let Ok(v) = d.eval(&bindings) {
            let (low, high) = d.bounds(&|s| Some(match s { "a" => (-3, 8), "b" => (1, 8), _ => (0, 8) }));
            prop_assert!(low.is_none_or(|l| l <= v) && high.is_none_or(|h| v <= h), "{} not within {:?}..{:?}", v, low, high);
        }
    }

    /// Simplification keeps the value: substituting constants gives what evaluation gives.
    #[test]
    fn substitution_agrees_with_evaluation(text in expression(), a in 1i64..9, b in 1i64..9, c in 1i64..9) {
        let bindings: Bindings = [("a", a), ("b", b), ("c", c)].map(|(k, v)| (k.to_owned(), v)).into();
        if let Ok(d) = text.parse::<Dim>() && let Ok(v) = d.eval(&bindings) {
            prop_assert_eq!(d.substitute(&|s| bindings[s].into()).as_const(), Some(v));
        }
    }
}
