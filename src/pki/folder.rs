//! The certificate folder: two authorities and the three certificates that they sign. Ensuring it creates missing ones
//! and replaces certificates after two thirds of their lifetime; authorities are never replaced implicitly.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{Authority, Error, Inspection, Leaf, PROVISIONER, Sans, file, inspect, inspect_all, sans::union};

pub(super) const AUTHORITY_DAYS: u32 = 3650;
const LEAF_LIFETIME: Duration = Duration::from_secs(365 * 86_400);

/// A certificate in the folder. Its files are `<name>.pem` and `<name>.key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item {
    /// Signs the broker's, the provisioner's and the tenants' certificates.
    BrokerCa,
    /// The broker's server certificate (AMQPS and management).
    Broker,
    /// The provisioner's client certificate.
    Provisioner,
    /// Signs the gateway's own certificate; applications trust it.
    GatewayCa,
    /// The gateway's server certificate (gRPC and ops).
    Gateway,
}

impl Item {
    /// All certificates, authorities before those that they sign.
    pub const ALL: [Self; 5] = [Self::BrokerCa, Self::Broker, Self::Provisioner, Self::GatewayCa, Self::Gateway];

    /// The name of its files without extension.
    pub const fn name(self) -> &'static str {
        match self {
            Self::BrokerCa => "broker-ca",
            Self::Broker => "broker",
            Self::Provisioner => "provisioner",
            Self::GatewayCa => "gateway-ca",
            Self::Gateway => "gateway",
        }
    }

    /// The certificates that it signs.
    pub(super) fn signs(self) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(move |item| item.authority() == Some(self))
    }

    const fn authority(self) -> Option<Self> {
        match self {
            Self::Broker | Self::Provisioner => Some(Self::BrokerCa),
            Self::Gateway => Some(Self::GatewayCa),
            Self::BrokerCa | Self::GatewayCa => None,
        }
    }
}

/// The change to a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is unchanged.
    Kept,
    /// It was missing.
    Created,
    /// Two thirds of its lifetime were over, or its renewal was requested.
    Renewed,
    /// It lacked a name, was signed by another authority, or could not be read.
    Replaced,
}

impl ChangeKind {
    /// The change in one word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Created => "created",
            Self::Renewed => "renewed",
            Self::Replaced => "replaced",
        }
    }
}

/// One certificate and the change to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    /// The certificate.
    pub item: Item,
    /// The change.
    pub what: ChangeKind,
}

/// The changes to a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report(Vec<Change>);

impl Report {
    pub(super) fn of(changes: Vec<Change>) -> Self {
        Self(changes)
    }

    /// Every certificate, in [`Item::ALL`]'s order.
    pub fn all(&self) -> &[Change] {
        &self.0
    }

    /// The certificates that changed.
    pub fn changes(&self) -> impl Iterator<Item = Change> {
        self.0.iter().copied().filter(|change| change.what != ChangeKind::Kept)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut changes = self.changes().peekable();
        if changes.peek().is_none() {
            return f.write_str("all certificates are valid, nothing changed");
        }
        for (n, Change { item, what }) in changes.enumerate() {
            let done = what.word();
            write!(f, "{}{done} {}", if n == 0 { "" } else { ", " }, item.name())?;
        }
        Ok(())
    }
}

/// The current state of a certificate in the folder.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The certificate.
    pub item: Item,
    /// The certificate's file.
    pub path: PathBuf,
    /// Its contents.
    pub inspection: Inspection,
    /// Whether the folder's authority signed it (for an authority: itself), or another trusted one.
    pub trusted: bool,
    /// Whether it is an authority that is trusted but does not sign, during a rotation.
    pub is_beside: bool,
    /// Whether others than its owner may read the key.
    pub key_exposed: bool,
}

/// A folder of certificates: `broker-ca`, `broker`, `provisioner`, `gateway-ca` and `gateway`, each `.pem` and `.key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertsDir {
    dir: PathBuf,
}

impl CertsDir {
    /// The folder at this path, which may not exist yet.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// The file of a certificate.
    pub fn certificate(&self, item: Item) -> PathBuf {
        self.dir.join(item.name()).with_extension("pem")
    }

    /// The file of a private key.
    pub fn key(&self, item: Item) -> PathBuf {
        self.dir.join(item.name()).with_extension("key")
    }

    /// Creates missing certificates and replaces those that are past two thirds of their lifetime, lack one of `sans`,
    /// or were not signed by this folder's authority. Names are only ever added.
    ///
    /// # Errors
    /// When the folder cannot be written, or an authority is malformed, incomplete or expired.
    pub fn ensure(&self, sans: &Sans) -> Result<Report, Error> {
        self.reconcile(sans, false)
    }

    /// The same, and every certificate except the authorities' is replaced, with a new key.
    ///
    /// # Errors
    /// As [`CertsDir::ensure`].
    pub fn renew(&self, sans: &Sans) -> Result<Report, Error> {
        self.reconcile(sans, true)
    }

    /// The authority that signs the certificates of the broker, the provisioner and the tenants.
    ///
    /// # Errors
    /// When its files cannot be used.
    pub fn broker_authority(&self) -> Result<Authority, Error> {
        self.load(Item::BrokerCa)
    }

    /// The authority that signs the gateway's own certificate.
    ///
    /// # Errors
    /// When its files cannot be used.
    pub fn gateway_authority(&self) -> Result<Authority, Error> {
        self.load(Item::GatewayCa)
    }

    /// The certificates in the folder, without the missing ones.
    ///
    /// # Errors
    /// When one exists and cannot be read.
    pub fn show(&self) -> Result<Vec<Entry>, Error> {
        let mut entries: Vec<Entry> = Vec::new();
        for item in Item::ALL {
            let path = self.certificate(item);
            if !path.exists() {
                continue;
            }
            let key_exposed = file::open_to_others(&self.key(item));
            let all = match item.authority() {
                None => inspect_all(&file::read(&path)?)?,
                Some(_) => vec![self.inspect(item)?],
            };
            for (place, inspection) in all.into_iter().enumerate() {
                let trusted = match item.authority() {
                    None => inspection.signed_by(&inspection),
                    Some(authority) => {
                        entries.iter().any(|entry| entry.item == authority && inspection.signed_by(&entry.inspection))
                    }
                };
                let path = path.clone();
                entries.push(Entry { item, path, inspection, trusted, is_beside: place > 0, key_exposed });
            }
        }
        Ok(entries)
    }

    fn reconcile(&self, sans: &Sans, renew: bool) -> Result<Report, Error> {
        file::make_folder(&self.dir)?;
        let mut report = Vec::new();
        let (broker, change) = self.authority(Item::BrokerCa, "Warrengate broker CA")?;
        report.push(change);
        report.push(self.leaf(Item::Broker, &broker, &sans.broker, renew)?);
        report.push(self.leaf(Item::Provisioner, &broker, &[], renew)?);
        let (gateway, change) = self.authority(Item::GatewayCa, "Warrengate gateway CA")?;
        report.push(change);
        report.push(self.leaf(Item::Gateway, &gateway, &sans.gateway, renew)?);
        Ok(Report(report))
    }

    fn authority(&self, item: Item, name: &str) -> Result<(Authority, Change), Error> {
        let (certificate, key) = (self.certificate(item), self.key(item));
        let unused = Item::ALL.iter().filter(|i| i.authority() == Some(item)).all(|i| !self.certificate(*i).exists());
        let what = match (certificate.exists(), key.exists()) {
            (true, true) => return Ok((self.load(item)?, Change { item, what: ChangeKind::Kept })),
            (false, false) => ChangeKind::Created,
            // An interrupted creation: nothing was signed with this key.
            (false, true) if unused => ChangeKind::Replaced,
            (true, false) => return Err(Error::Incomplete { present: certificate, missing: key }),
            (false, true) => return Err(Error::Incomplete { present: key, missing: certificate }),
        };
        let authority = Authority::generate(name, AUTHORITY_DAYS)?;
        authority.save(&certificate, &key)?;
        Ok((authority, Change { item, what }))
    }

    pub(super) fn leaf(
        &self,
        item: Item,
        authority: &Authority,
        sans: &[String],
        renew: bool,
    ) -> Result<Change, Error> {
        let (certificate, key) = (self.certificate(item), self.key(item));
        let mut names = sans.to_vec();
        let existing = Leaf::load(&certificate, &key).ok().and_then(|leaf| inspect(leaf.certificate_pem()).ok());
        let what = match &existing {
            None if certificate.exists() => ChangeKind::Replaced,
            None => ChangeKind::Created,
            Some(seen) => {
                let covered = sans.iter().all(|san| seen.sans().contains(san));
                union(&mut names, seen.sans());
                if !covered || !seen.signed_by(authority.inspection()) {
                    ChangeKind::Replaced
                } else if renew || seen.renew_after() <= SystemTime::now() {
                    ChangeKind::Renewed
                } else {
                    return Ok(Change { item, what: ChangeKind::Kept });
                }
            }
        };
        let leaf = match item {
            Item::Provisioner => authority.client(PROVISIONER, LEAF_LIFETIME)?,
            Item::Broker => authority.server("warrengate broker", &names, LEAF_LIFETIME)?,
            _ => authority.server("warrengate gateway", &names, LEAF_LIFETIME)?,
        };
        leaf.save(&certificate, &key)?;
        Ok(Change { item, what })
    }

    fn load(&self, item: Item) -> Result<Authority, Error> {
        Authority::load(&self.certificate(item), &self.key(item))
    }

    pub(super) fn inspect(&self, item: Item) -> Result<Inspection, Error> {
        let path = self.certificate(item);
        inspect(&file::read(&path)?)
            .map_err(|_| Error::Malformed { what: path.display().to_string(), expected: "certificate" })
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn whats(report: &Report) -> Vec<ChangeKind> {
        report.all().iter().map(|change| change.what).collect()
    }

    #[test]
    fn missing_certificates_are_created_and_valid_ones_kept() {
        let folder = tempfile::tempdir().expect("folder");
        let certs = CertsDir::new(folder.path().join("certs"));
        let sans = Sans::default();
        assert_eq!(whats(&certs.ensure(&sans).expect("created")), [ChangeKind::Created; 5]);
        assert_eq!(whats(&certs.ensure(&sans).expect("kept")), [ChangeKind::Kept; 5]);
        let shown = certs.show().expect("shown");
        assert_eq!(shown.len(), 5);
        assert!(shown.iter().all(|entry| entry.trusted && !entry.key_exposed));

        fs::remove_file(certs.key(Item::Gateway)).expect("removed");
        let report = certs.ensure(&sans).expect("repaired");
        assert_eq!(report.to_string(), "replaced gateway");
    }

    #[test]
    fn new_names_are_added_and_old_ones_kept() {
        let folder = tempfile::tempdir().expect("folder");
        let certs = CertsDir::new(folder.path());
        certs.ensure(&Sans::with(&["one.test".to_owned()])).expect("created");
        assert_eq!(certs.ensure(&Sans::default()).expect("kept").changes().count(), 0);
        certs.ensure(&Sans::with(&["two.test".to_owned()])).expect("replaced");
        let seen = certs.inspect(Item::Broker).expect("read");
        assert!(
            ["localhost", "::1", "one.test", "two.test"].iter().all(|san| seen.sans().contains(&(*san).to_owned()))
        );
        assert_eq!(whats(&certs.renew(&Sans::default()).expect("renewed"))[1], ChangeKind::Renewed);
    }

    #[test]
    fn an_authority_is_never_replaced_implicitly() {
        let folder = tempfile::tempdir().expect("folder");
        let certs = CertsDir::new(folder.path());
        certs.ensure(&Sans::default()).expect("created");
        fs::remove_file(certs.certificate(Item::BrokerCa)).expect("removed");
        assert!(matches!(certs.ensure(&Sans::default()), Err(Error::Incomplete { .. })));

        Authority::generate("another", 10)
            .and_then(|ca| ca.save(&certs.certificate(Item::BrokerCa), &certs.key(Item::BrokerCa)))
            .expect("saved");
        assert!(certs.show().expect("shown").iter().any(|entry| entry.item == Item::Broker && !entry.trusted));
        let report = certs.ensure(&Sans::default()).expect("repaired");
        assert_eq!(report.to_string(), "replaced broker, replaced provisioner");
    }
}
