//! Amounts as users write them: bytes as Kubernetes quantities, whole; bandwidth in bytes per second;
//! durations as `300ms`, `90s`, `30m`, `2h`. Parsed once, here; everything behind counts in integers.

use std::{fmt, str::FromStr, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why an amount is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not a number with a known unit.
    #[error(
        "{0:?} is not a quantity of bytes: write a number with Ki, Mi, Gi, Ti, Pi or k, M, G, T, P, such as 2Gi"
    )]
    NotBytes(String),
    /// A fraction of a byte.
    #[error("{0:?} is not a whole number of bytes")]
    NotWhole(String),
    /// More than 2^63 - 1 bytes.
    #[error("{0:?} is more than 8 EiB")]
    TooLarge(String),
    /// Not a number of CPUs.
    #[error("{0:?} is not a number of CPUs: write 2, 1.5 or 500m")]
    NotCpus(String),
    /// Not a duration.
    #[error("{0:?} is not a duration: write a number with ms, s, m or h, such as 300ms or 1h30m")]
    NotDuration(String),
}

/// A number of bytes. Reads and writes as a Kubernetes quantity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(pub u64);

const BINARY: [(&str, u32); 5] = [("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
const DECIMAL: [(&str, u32); 5] = [("P", 15), ("T", 12), ("G", 9), ("M", 6), ("k", 3)];

impl FromStr for Bytes {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (number, scale) = BINARY
            .iter()
            .find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, 1u128 << shift)))
            .or_else(|| {
                DECIMAL
                    .iter()
                    .find_map(|(unit, power)| Some((text.strip_suffix(unit)?, 10u128.pow(*power))))
            })
            .unwrap_or((text, 1));
        let not_bytes = || QuantityError::NotBytes(text.to_owned());
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty()
            || !digits(whole)
            || !digits(fraction)
            || number.ends_with('.')
            || number.len() > 24
        {
            return Err(not_bytes());
        }
        let mantissa: u128 = format!("{whole}{fraction}")
            .parse()
            .map_err(|_| not_bytes())?;
        let divisor = 10u128.pow(fraction.len() as u32);
        let too_large = || QuantityError::TooLarge(text.to_owned());
        let scaled = mantissa.checked_mul(scale).ok_or_else(too_large)?;
        if scaled % divisor != 0 {
            return Err(QuantityError::NotWhole(text.to_owned()));
        }
        let bytes = u64::try_from(scaled / divisor).map_err(|_| too_large())?;
        if bytes > i64::MAX as u64 {
            return Err(too_large());
        }
        Ok(Self(bytes))
    }
}

impl Bytes {
    /// As a person would say it, at most four significant digits: `1.5Gi`. Not for reading back.
    #[must_use]
    pub fn human(self) -> String {
        for (unit, shift) in BINARY {
            let size = 1u64 << shift;
            if self.0 >= size {
                let value = self.0 as f64 / size as f64;
                return if value >= 100.0 || self.0.is_multiple_of(size) {
                    format!("{value:.0}{unit}")
                } else {
                    format!("{value:.1}{unit}")
                };
            }
        }
        self.0.to_string()
    }
}

/// Exact: the largest binary unit that divides the number, else plain bytes.
impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in BINARY {
            let size = 1u64 << shift;
            if self.0 >= size && self.0.is_multiple_of(size) {
                return f.pad(&format!("{}{unit}", self.0 / size));
            }
        }
        f.pad(&self.0.to_string())
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity of bytes such as 2Gi")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Bytes, E> {
                Ok(Bytes(value))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Bytes, E> {
                u64::try_from(value)
                    .map(Bytes)
                    .map_err(|_| E::custom(QuantityError::NotBytes(value.to_string())))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Bytes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Bytes".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "x-kubernetes-int-or-string": true,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 24,
            "pattern": r"^[0-9]+(\.[0-9]+(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)|(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?)$",
        })
    }
}

/// A number of CPUs, in thousandths. Reads and writes as a Kubernetes quantity: `2`, `1500m`, `1.5`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpus {
    /// Thousandths of a CPU.
    pub milli: u64,
}

impl FromStr for Cpus {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let wrong = || QuantityError::NotCpus(text.to_owned());
        let (number, fraction, scale, most) = match text.strip_suffix('m') {
            Some(number) => (number, "", 1, 12),
            None => match text.split_once('.') {
                Some((_, "")) => return Err(wrong()),
                Some((whole, fraction)) => (whole, fraction, 1000, 9),
                None => (text, "", 1000, 9),
            },
        };
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let fits = (1..=most).contains(&number.len()) && fraction.len() <= 3;
        if !fits || !digits(number) || !digits(fraction) {
            return Err(wrong());
        }
        let whole: u64 = number.parse().map_err(|_| wrong())?;
        let part: u64 = format!("{fraction:0<3}").parse().map_err(|_| wrong())?;
        Ok(Self {
            milli: whole * scale + part,
        })
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.milli.is_multiple_of(1000) {
            f.pad(&(self.milli / 1000).to_string())
        } else {
            f.pad(&format!("{}m", self.milli))
        }
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Cpus;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of CPUs such as \"1\" or 500m")
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Cpus, E> {
                value.to_string().parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Cpus, E> {
                value.to_string().parse().map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Cpus, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The schema of a number of CPUs.
pub(crate) fn cpus_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "x-kubernetes-int-or-string": true,
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "maxLength": 13,
        "pattern": r"^([0-9]{1,12}m|[0-9]{1,9}(\.[0-9]{1,3})?)$",
    })
}

/// The schema of a bandwidth: bytes per second, at least 1Mi.
pub(crate) fn bandwidth_schema(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = Bytes::json_schema(generator);
    schema.insert(
        "x-kubernetes-validations".into(),
        serde_json::json!([{
            "rule": "quantity(string(self)).compareTo(quantity('1Mi')) >= 0",
            "message": "a bandwidth is in bytes per second (not bits) and at least 1Mi",
        }]),
    );
    schema
}

/// A length of time, as `300ms`, `90s`, `30m`, `1h30m`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span(pub Duration);

impl FromStr for Span {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let wrong = || QuantityError::NotDuration(text.to_owned());
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .filter(|at| (1..=9).contains(at))
                .ok_or_else(wrong)?;
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let unit = rest
                .find(|c: char| c.is_ascii_digit())
                .unwrap_or(rest.len());
            total += match &rest[..unit] {
                "ms" => Duration::from_millis(number),
                "s" => Duration::from_secs(number),
                "m" => Duration::from_secs(number * 60),
                "h" => Duration::from_secs(number * 3600),
                _ => return Err(wrong()),
            };
            rest = &rest[unit..];
        }
        if text.is_empty() {
            return Err(wrong());
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis == 0 {
            return f.pad("0s");
        }
        if !millis.is_multiple_of(1000) {
            return f.pad(&format!("{millis}ms"));
        }
        let seconds = self.0.as_secs();
        let parts = [
            (seconds / 3600, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
        ];
        let text: String = parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, unit)| format!("{number}{unit}"))
            .collect();
        f.pad(&text)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 32,
            "pattern": r"^([0-9]{1,9}(ms|s|m|h))+$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_exact_and_whole() {
        let good = [
            ("0", 0),
            ("512", 512),
            ("1k", 1000),
            ("2Gi", 2 << 30),
            ("1.5Ki", 1536),
            ("1200M", 1_200_000_000),
        ];
        for (text, bytes) in good {
            assert_eq!(text.parse(), Ok(Bytes(bytes)), "{text}");
        }
        for text in [
            "",
            "500m",
            "1.5",
            "2GB",
            "-1",
            "1e3",
            "Gi",
            "1.",
            ".5Gi",
            "1 Gi",
            "99999999Pi",
        ] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
    }

    #[test]
    fn bytes_survive_writing_and_reading() {
        for bytes in [0, 1, 1023, 1024, 1536, 3 << 30, (1 << 50) + 1] {
            assert_eq!(Bytes(bytes).to_string().parse(), Ok(Bytes(bytes)));
        }
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("300ms", 300),
            ("90s", 90_000),
            ("1h30m", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(
                text.parse(),
                Ok(Span(Duration::from_millis(millis))),
                "{text}"
            );
        }
        for text in ["", "5", "5 s", "-1s", "1.5s", "3d", "s"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
        assert_eq!(Span(Duration::from_secs(5400)).to_string(), "1h30m");
    }
}
