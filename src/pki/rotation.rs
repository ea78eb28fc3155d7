//! The rotation of an authority in three steps, between which all peers reload their files: both authorities are
//! trusted, then the new one signs, then it alone is trusted.
//!
//! Each step can be repeated, also after an interruption. An authority's file contains the signing authority first, and
//! after it the other trusted ones; the next authority is in `<name>-next.pem` and `.key` until it signs.

use super::{
    Authority, CertsDir, Error, Item, Report, Sans, file,
    folder::{AUTHORITY_DAYS, Change, ChangeKind},
    inspect::inspect_all,
};

/// A step of a rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Creates the next authority, which is trusted from then on.
    Prepare,
    /// Signs with the next authority; the previous one is still trusted.
    Switch,
    /// Ends the trust in the previous authority.
    Finish,
}

impl CertsDir {
    /// Does one step of a rotation, and replaces the certificates that the authority signs.
    ///
    /// # Errors
    /// When the step is not possible now, or the folder cannot be read or written.
    pub fn rotate(&self, authority: Item, step: Step) -> Result<Report, Error> {
        match step {
            Step::Prepare => self.prepare(authority),
            Step::Switch => self.switch(authority),
            Step::Finish => self.finish(authority),
        }
    }

    fn next(&self, item: Item) -> (std::path::PathBuf, std::path::PathBuf) {
        let stem = format!("{}-next", item.name());
        let path = self.path().join(stem);
        (path.with_extension("pem"), path.with_extension("key"))
    }

    fn prepare(&self, item: Item) -> Result<Report, Error> {
        let signing = Authority::load(&self.certificate(item), &self.key(item))?;
        let (certificate, key) = self.next(item);
        let what = if certificate.exists() { ChangeKind::Kept } else { ChangeKind::Created };
        if what == ChangeKind::Created {
            let trusted = inspect_all(signing.certificate_pem())?;
            if trusted.len() > 1 {
                return Err(Error::Rotation("the previous rotation is not finished: run its last step, finish"));
            }
            // A unique name, because peers find an issuer by its name.
            let name = format!("Warrengate {} {:08x}", item.name().replace("-ca", " CA"), rand::random::<u32>());
            Authority::generate(&name, AUTHORITY_DAYS)?.save(&certificate, &key)?;
        }
        let next = Authority::load(&certificate, &key)?;
        self.trust(item, &[signing.first_pem(), next.first_pem()])?;
        Ok(Report::of(vec![Change { item, what }]))
    }

    fn switch(&self, item: Item) -> Result<Report, Error> {
        let (certificate, key) = self.next(item);
        if !certificate.exists() {
            return Err(Error::Rotation("there is no next authority: run the first step, prepare"));
        }
        let next = Authority::load(&certificate, &key)?;
        let mut trusted = vec![next.first_pem()];
        let before = inspect_all(&file::read(&self.certificate(item))?)?;
        if before.iter().all(|seen| seen.der() != next.inspection().der()) {
            return Err(Error::Rotation("the next authority is not trusted yet: run the first step, prepare, again"));
        }
        trusted.extend(before.iter().filter(|seen| seen.der() != next.inspection().der()).map(|seen| seen.pem()));
        // A reader between the two writes sees a mismatch and keeps the previous pair.
        next.save(&self.certificate(item), &self.key(item))?;
        self.trust(item, &trusted)?;
        let mut report = vec![Change { item, what: ChangeKind::Renewed }];
        report.extend(self.leaves(item, &next, true)?);
        for path in [certificate, key] {
            std::fs::remove_file(&path).map_err(Error::file("remove", &path))?;
        }
        Ok(Report::of(report))
    }

    fn finish(&self, item: Item) -> Result<Report, Error> {
        if self.next(item).0.exists() {
            return Err(Error::Rotation("the next authority does not sign yet: run the second step, switch"));
        }
        let signing = Authority::load(&self.certificate(item), &self.key(item))?;
        self.trust(item, &[signing.first_pem()])?;
        // Certificates of the previous authority are invalid from now on.
        let mut report = vec![Change { item, what: ChangeKind::Kept }];
        report.extend(self.leaves(item, &signing, false)?);
        Ok(Report::of(report))
    }

    fn trust(&self, item: Item, pems: &[String]) -> Result<(), Error> {
        let path = self.certificate(item);
        let text = pems.concat();
        if file::read(&path)? == text {
            return Ok(());
        }
        file::write_public(&path, &text)
    }

    /// Replaces the certificates that the authority signs, or only those that another one signed.
    fn leaves(&self, item: Item, authority: &Authority, renew: bool) -> Result<Vec<Change>, Error> {
        let names = Sans::default();
        item.signs().map(|leaf| self.leaf(leaf, authority, names.of(leaf), renew)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pki::{Leaf, inspect};

    fn trusted(certs: &CertsDir) -> usize {
        inspect_all(&file::read(&certs.certificate(Item::BrokerCa)).expect("read")).expect("certificates").len()
    }

    #[test]
    fn a_rotation_has_three_steps_that_can_be_repeated() {
        let folder = tempfile::tempdir().expect("folder");
        let certs = CertsDir::new(folder.path());
        certs.ensure(&Sans::with(&["one.test".to_owned()])).expect("made");
        let first = certs.broker_authority().expect("loaded");
        let gateway = certs.inspect(Item::Gateway).expect("read");
        assert!(matches!(certs.rotate(Item::BrokerCa, Step::Switch), Err(Error::Rotation(_))));

        for _ in 0..2 {
            certs.rotate(Item::BrokerCa, Step::Prepare).expect("prepared");
            assert_eq!(trusted(&certs), 2);
        }
        assert!(matches!(certs.rotate(Item::BrokerCa, Step::Finish), Err(Error::Rotation(_))));
        let both = certs.broker_authority().expect("loaded");
        assert!(both.inspection() == first.inspection() && both.trusted_der().len() == 2, "the first one still signs");
        assert_eq!(certs.ensure(&Sans::default()).expect("kept").changes().count(), 0);
        assert!(certs.show().expect("shown").iter().all(|entry| entry.trusted));

        // Interrupted between the key and the certificate.
        let (next, key) = certs.next(Item::BrokerCa);
        std::fs::copy(&key, certs.key(Item::BrokerCa)).expect("copied");
        assert!(matches!(certs.broker_authority(), Err(Error::Mismatch { .. })));
        certs.rotate(Item::BrokerCa, Step::Switch).expect("switched");
        let second = certs.broker_authority().expect("loaded");
        assert!(!next.exists() && second.inspection() != first.inspection() && second.trusted_der().len() == 2);
        for item in [Item::Broker, Item::Provisioner] {
            let seen = certs.inspect(item).expect("read");
            assert!(seen.signed_by(second.inspection()) && !seen.signed_by(first.inspection()));
            Leaf::load(&certs.certificate(item), &certs.key(item)).expect("a pair");
        }
        assert!(certs.inspect(Item::Broker).expect("read").sans().contains(&"one.test".to_owned()));
        assert_eq!(
            certs.inspect(Item::Gateway).expect("read"),
            gateway,
            "the gateway's certificate has another authority"
        );
        assert!(matches!(certs.rotate(Item::BrokerCa, Step::Prepare), Err(Error::Rotation(_))), "not finished");

        for _ in 0..2 {
            certs.rotate(Item::BrokerCa, Step::Finish).expect("finished");
            assert_eq!(trusted(&certs), 1);
        }
        certs.rotate(Item::BrokerCa, Step::Prepare).expect("and again");
    }

    #[test]
    fn the_gateways_authority_is_rotated_by_the_same_steps() {
        let folder = tempfile::tempdir().expect("folder");
        let certs = CertsDir::new(folder.path());
        certs.ensure(&Sans::default()).expect("made");
        for step in [Step::Prepare, Step::Switch, Step::Finish] {
            certs.rotate(Item::GatewayCa, step).expect("a step");
        }
        let authority = certs.gateway_authority().expect("loaded");
        let seen = inspect(&file::read(&certs.certificate(Item::Gateway)).expect("read")).expect("a certificate");
        assert!(seen.signed_by(authority.inspection()));
    }
}
