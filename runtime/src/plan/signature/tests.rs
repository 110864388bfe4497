//! Plans that are signed, and then changed.

use proptest::prelude::*;

use super::*;
use crate::plan::tests::{two_products, with_manifest};
use crate::plan::{Plan, PlanOptions};

/// A key pair that OpenSSL made, and its Ed25519 signature of the purpose and 64 times 7.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIIrTYwGWktx6+dfz5qRkK8/iaX8LJV//Oktlwn5zhVLB
-----END PRIVATE KEY-----
";
const PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA/dJcAM/Db/iJA5hdBCS/Tugp4RlnrNkYj1YIf0DvBEw=
-----END PUBLIC KEY-----
";
const HEX: &str = "fdd25c00cfc36ff88903985d0424bf4ee829e11967acd9188f56087f40ef044c";
const OF_SEVENS: &str = "db44cbc22c561d6617d42f013385309c88a5e1b87323a406d940c89b12822027\
                         af533fde851eb95c50e126dd088625224792c16eb76f578c14c5c7edde370d04";

fn owner() -> PrivateKey {
    PrivateKey::from_pem(PRIVATE).unwrap()
}

fn stranger() -> PrivateKey {
    PrivateKey::from_seed([1; 32]).unwrap()
}

fn plan() -> Vec<u8> {
    let (writer, manifest) = two_products();
    writer.to_bytes(manifest).unwrap()
}

fn signed_by(key: &PrivateKey, plan: &[u8]) -> Vec<u8> {
    let plan = Plan::copied(plan).unwrap();
    let mut out = Vec::new();
    plan.write_signed(&plan.sign(key).unwrap(), &mut out).unwrap();
    out
}

fn required(key: &PrivateKey) -> PlanOptions {
    PlanOptions::default().with_signers(Signers::from(key.public()))
}

#[test]
fn keys_and_signatures_are_those_of_openssl() {
    let key = owner();
    assert_eq!((key.to_pem().as_str(), key.public().to_pem().as_str()), (PRIVATE, PUBLIC));
    assert_eq!(key.public().to_string(), HEX);
    let signature = Signature::new(&[7; HEADER_LEN], &key);
    let hex: String = signature.bytes.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, OF_SEVENS);
    assert_eq!(Signers::from(key.public()).verify(&[7; HEADER_LEN], &[signature]).unwrap(), key.public());
}

#[test]
fn files_may_have_several_public_keys_and_nothing_else() {
    let both = format!("of the owner\n{PUBLIC}of another\n{}\nthe end\n", stranger().public().to_pem());
    assert_eq!(Signers::from_pem(&both).unwrap().keys(), [owner().public(), stranger().public()]);
    let of_another_kind = PUBLIC.replace("VwAyEA", "VuAyEA");
    let of_small_order =
        PUBLIC.replace("/dJcAM/Db/iJA5hdBCS/Tugp4RlnrNkYj1YIf0DvBEw=", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
    for bad in ["", "none", PRIVATE, &PUBLIC[..60], &format!("{PUBLIC}-----BEGIN"), &of_another_kind, &of_small_order] {
        let error = Signers::from_pem(bad).unwrap_err().to_string();
        assert!(error.contains("no public Ed25519 key"), "{bad}: {error}");
    }
    assert!(PrivateKey::from_pem(PUBLIC).is_err());
    let missing = Signers::read(Path::new("/nowhere/owner.pub")).unwrap_err().to_string();
    assert!(missing.starts_with("/nowhere/owner.pub: "), "{missing}");
}

#[test]
fn a_signature_is_behind_the_plan_or_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.slide");
    let (plain, options) = (plan(), required(&owner()));
    let signed = signed_by(&owner(), &plain);
    assert_eq!((signed.len(), &signed[..plain.len()]), (plain.len() + 104, &plain[..]));
    assert_eq!(signed_by(&stranger(), &signed), signed_by(&stranger(), &plain), "a signature takes another's place");

    // Where none is required, one does not matter.
    for file in [&plain, &signed] {
        let plan = Plan::copied(file).unwrap();
        assert_eq!((plan.digest(), plan.signer()), (Plan::copied(&plain).unwrap().digest(), None));
    }
    std::fs::write(&path, &signed).unwrap();
    for options in [options.clone(), options.clone().with_no_mmap(true)] {
        assert_eq!(Plan::open_with(&path, &options).unwrap().signer(), Some(owner().public()));
    }
    assert_eq!(Plan::copied_with(&signed, &options).unwrap().signer(), Some(owner().public()));

    // Beside the plan, whoever signed the file itself.
    let beside = Signature::beside(&path);
    assert!(beside.ends_with("m.slide.sig"));
    std::fs::write(&beside, &signed[plain.len()..]).unwrap();
    for file in [plain.clone(), signed_by(&stranger(), &plain)] {
        std::fs::write(&path, file).unwrap();
        assert_eq!(Plan::open_with(&path, &options).unwrap().signer(), Some(owner().public()));
    }
    for damaged in [&signed[..104], &signed[plain.len() + 1..], &[&signed[plain.len()..], b"\n"].concat()] {
        std::fs::write(&beside, damaged).unwrap();
        let error = Plan::open_with(&path, &options).unwrap_err().to_string();
        assert!(error.contains("m.slide.sig is no signature"), "{error}");
    }
}

#[test]
fn plans_that_nobody_who_is_trusted_signed_are_refused() {
    let (plain, options) = (plan(), required(&owner()));
    let mut other = Plan::copied(&plain).unwrap().manifest().clone();
    other.provenance.options.clear();
    let other = with_manifest(&plain, &other);
    let swapped = [&other[..], &signed_by(&owner(), &plain)[plain.len()..]].concat();
    let claimed = {
        let mut file = signed_by(&stranger(), &plain);
        let at = plain.len() + 8;
        file[at..at + 32].copy_from_slice(&*owner().public().0);
        file
    };
    let stranger_key = format!("signed by key {}, which is none of those", stranger().public());
    let changed = format!("not what key {HEX} signed");
    for (file, message) in [
        (plain.clone(), "the plan is not signed, and a signature is required"),
        (signed_by(&stranger(), &plain), &stranger_key),
        (swapped, &changed),
        (claimed, &changed),
    ] {
        assert!(Plan::copied(&file).is_ok(), "the plan as such is good");
        let error = Plan::copied_with(&file, &options).unwrap_err().to_string();
        assert!(error.contains(message), "{message}: {error}");
    }
}

#[test]
fn damaged_plans_are_not_signed() {
    for at in [512, 400] {
        let mut file = plan();
        file[at] ^= 1;
        assert!(Plan::copied(&file).unwrap().sign(&owner()).is_err());
    }
}

#[test]
fn every_byte_is_signed() {
    let (good, options) = (signed_by(&owner(), &plan()), required(&owner()));
    for at in 0..good.len() {
        let mut file = good.clone();
        file[at] ^= 1 << (at % 8);
        assert!(Plan::copied_with(&file, &options).is_err(), "byte {at} of {}", good.len());
    }
}

proptest! {
    #[test]
    fn nothing_that_was_changed_after_signing_is_opened(
        at in any::<prop::sample::Index>(),
        bytes in prop::collection::vec(any::<u8>(), 0..9),
        cut in 0usize..9,
    ) {
        let good = signed_by(&owner(), &plan());
        let at = at.index(good.len() + 1);
        let end = (at + cut).min(good.len());
        let file = [&good[..at], &bytes, &good[end..]].concat();
        prop_assume!(file != good);
        prop_assert!(Plan::copied_with(&file, &required(&owner())).is_err());
    }
}
