//! Mutation of bytes: what parsers get wrong most is at lengths, numbers, ends and quotes.

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, end: usize) -> usize {
        match end {
            0 => 0,
            end => (self.next() % end as u64) as usize,
        }
    }
}

/// No example is longer; a mutation may be twice that.
const MAX_BYTES: usize = 16 * 1024;

const INTERESTING: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    15,
    16,
    31,
    63,
    64,
    127,
    128,
    255,
    256,
    511,
    1024,
    1600,
    4095,
    4096,
    32767,
    32768,
    65535,
    65536,
    0x7fff_fffe,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffb,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x3fff_ffff,
    0x4000_0000,
    0x4000_0400,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

const TOKENS: &[&[u8]] = &[
    b"\"",
    b"'",
    b"''",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\0",
    b"\n",
    b"\r\n",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b":",
    b";",
    b"=",
    b"%",
    b"%00",
    b"%zz",
    b"$1",
    b"--",
    b"/*",
    b"*/",
    b"\xff",
    b"\xc3\xa4",
    b"\xf0\x9f\x90\x98",
    b"\xe2\x80\xa8",
    b"null",
    b"-1",
    b"1e999",
    b"99999999999999999999",
    b"0x",
    b"../",
    b" ",
    b"\t",
    b"[[[[[[[[",
    b"{\"a\":{\"a\":{\"a\":",
];

/// A few changes to `input`, some of them with pieces of `other`.
pub fn mutate(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4).min(random.below(6)) {
        change(random, &mut bytes, other);
    }
    bytes.truncate(2 * MAX_BYTES);
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(bytes.len() + 1);
    match random.below(14) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.next() as u8,
        2 => bytes.truncate(at),
        3 => {
            let end = (at + 1 + random.below(16)).min(bytes.len());
            bytes.drain(at.min(end)..end);
        }
        4 => {
            let end = (at + random.below(64)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            for _ in 0..=random.below(3) {
                bytes.splice(at..at, piece.iter().copied());
            }
        }
        5 => {
            let from = random.below(other.len() + 1);
            let to = (from + random.below(200)).min(other.len());
            bytes.splice(at..at, other[from..to].iter().copied());
        }
        6 => {
            let from = random.below(other.len() + 1);
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        7 | 8 => {
            let token = TOKENS[random.below(TOKENS.len())];
            let over = match random.below(2) {
                0 => 0,
                _ => token.len().min(bytes.len() - at),
            };
            bytes.splice(at..at + over, token.iter().copied());
        }
        9 | 10 => binary_number(random, bytes, at),
        11 | 12 => decimal_number(random, bytes, at),
        _ => bytes.insert(at, random.next() as u8),
    }
}

/// Put an interesting number over 1, 2, 4 or 8 bytes, in either order.
fn binary_number(random: &mut Random, bytes: &mut [u8], at: usize) {
    let width = [1, 2, 4, 4, 8][random.below(5)];
    let Some(place) = bytes.get_mut(at..at + width) else {
        return;
    };
    let mut number = INTERESTING[random.below(INTERESTING.len())];
    number = number.wrapping_add(random.below(3) as u64).wrapping_sub(1);
    match random.below(3) {
        0 => place.copy_from_slice(&number.to_le_bytes()[..width]),
        _ => place.copy_from_slice(&number.to_be_bytes()[8 - width..]),
    }
}

/// Replace the first digits after `at` by an interesting number.
fn decimal_number(random: &mut Random, bytes: &mut Vec<u8>, at: usize) {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    let Some(start) = bytes[at..]
        .iter()
        .position(is_digit)
        .map(|place| at + place)
    else {
        return;
    };
    let length = bytes[start..]
        .iter()
        .take_while(|byte| is_digit(byte))
        .count();
    let number = INTERESTING[random.below(INTERESTING.len())].to_string();
    bytes.splice(start..start + length, number.into_bytes());
}
