//! Planted defects, to prove that the simulation sees them. Without the feature `mutants` every check is the constant `false`.

/// A rule that can be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Mutant {
    /// The journal takes a record whatever the writer expected (used by the simulated journal).
    CompareAndSet = 1,
    /// Records and commands of an older epoch are taken.
    EpochCheck = 2,
    /// Reports count whatever token they carry.
    TokenCheck = 3,
    /// The newest request in a lock queue goes first.
    Fifo = 4,
    /// The end of an attempt does not free its locks.
    ReleaseWithEnd = 5,
    /// A glob conflicts with nothing but itself.
    Overlap = 6,
    /// A lock held from outside is renewed and released under any token.
    OutsideToken = 7,
    /// An effect is brought about whatever the ledger says of it.
    EffectOnce = 8,
}

impl Mutant {
    /// All of them with the names that `make mutants` uses.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::CompareAndSet, "compare-and-set"),
        (Self::EpochCheck, "epoch-check"),
        (Self::TokenCheck, "token-check"),
        (Self::Fifo, "fifo"),
        (Self::ReleaseWithEnd, "release-with-the-end"),
        (Self::Overlap, "overlap"),
        (Self::OutsideToken, "outside-token"),
        (Self::EffectOnce, "effect-once"),
    ];
}

#[cfg(feature = "mutants")]
static ACTIVE: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Takes a rule out for the whole process.
#[cfg(feature = "mutants")]
pub fn plant(mutant: Mutant) {
    ACTIVE.store(mutant as u8, std::sync::atomic::Ordering::SeqCst);
}

/// True if `mutant` is planted.
#[cfg(feature = "mutants")]
pub fn planted(mutant: Mutant) -> bool {
    ACTIVE.load(std::sync::atomic::Ordering::Relaxed) == mutant as u8
}

/// True if `mutant` is planted: never, in this build.
#[cfg(not(feature = "mutants"))]
pub const fn planted(_mutant: Mutant) -> bool {
    false
}
