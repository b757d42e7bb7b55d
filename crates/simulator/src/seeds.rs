//! Random numbers for a thing with a name. They follow from the world's seed and the name, whatever else happens.

use fastrand::Rng;

/// The random numbers of `name` in a world with this seed.
pub(super) fn random_for(seed: u64, name: &str) -> Rng {
    Rng::with_seed(name.bytes().fold(seed ^ FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME)))
}

/// The parameters of the 64-bit hash FNV-1a.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;
