//! Faults in words.

use std::fmt;

use super::fault::{Fault, Loss, Who};

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(node) => write!(f, "n{}", node + 1),
            Self::Leader => f.write_str("the leader"),
            Self::All => f.write_str("all"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kill { who, down_ms } => write!(f, "kill {who}, start after {down_ms} ms"),
            Self::Pause { who, for_ms } => write!(f, "pause {who} for {for_ms} ms"),
            Self::Storm { who, times, each_ms } => {
                write!(f, "kill {who} {times} times, every {each_ms} ms")
            }
            Self::Partition { shape, for_ms } => write!(f, "cut {shape} for {for_ms} ms"),
            Self::Flapping { shape, times, each_ms } => {
                write!(f, "cut {shape} {times} times, every {each_ms} ms")
            }
            Self::Loss { percent, for_ms } => write!(f, "lose {percent} % for {for_ms} ms"),
            Self::Power { who, down_ms } => {
                write!(f, "cut the power of {who}, start after {down_ms} ms")
            }
            Self::Brownout { who, times, each_ms } => {
                write!(f, "cut the power of {who} {times} times, every {each_ms} ms")
            }
            Self::Relapse { who, up_ms, down_ms } => write!(
                f,
                "kill and start {who}, cut the power {up_ms} ms later, start after {down_ms} ms"
            ),
            Self::Amnesia { loss, first, missing_ms, alone_ms } => {
                let which = if *first { "first" } else { "second" };
                let how = match loss {
                    Loss::Power => "power",
                    Loss::Log => "log",
                    Loss::Reopen => "power after a kill before a sync",
                };
                write!(
                    f,
                    "{missing_ms} ms without one follower, then the {which} one loses its {how}, \
                     {alone_ms} ms without the leader"
                )
            }
            Self::Revote { first, alone_ms } => {
                let which = if *first { "first" } else { "second" };
                write!(
                    f,
                    "an election without the leader, then the {which} follower loses its power, \
                     {alone_ms} ms without the other one"
                )
            }
            Self::Full { who, for_ms } => write!(f, "fill the disk of {who} for {for_ms} ms"),
            Self::Pull { who, for_ms } => {
                write!(f, "take the disk of {who} away for {for_ms} ms")
            }
            Self::Ill { who, ill, for_ms } => write!(f, "{ill} on {who} for {for_ms} ms"),
            Self::Degrade { shape: Some(shape), quality, for_ms } => {
                write!(f, "packets {quality} between {shape} for {for_ms} ms")
            }
            Self::Degrade { shape: None, quality, for_ms } => {
                write!(f, "all packets {quality} for {for_ms} ms")
            }
            Self::Clock { who, by_ms, for_ms } => {
                write!(f, "set the clock of {who} {by_ms:+} ms for {for_ms} ms")
            }
            Self::Strobe { who, by_ms, times, each_ms } => {
                write!(f, "set the clock of {who} {by_ms:+} ms {times} times, every {each_ms} ms")
            }
            Self::Rolling { order, calm_ms } => {
                f.write_str("restart")?;
                order.iter().try_for_each(|node| write!(f, " n{}", node + 1))?;
                write!(f, " in turn, {calm_ms} ms between them")
            }
            Self::Upgrade { order, calm_ms } => {
                f.write_str("exchange the binaries of")?;
                order.iter().try_for_each(|node| write!(f, " n{}", node + 1))?;
                write!(f, " in turn, {calm_ms} ms between them")
            }
            Self::Blackout { nodes, down_ms } => {
                f.write_str("kill the region of")?;
                nodes.iter().try_for_each(|node| write!(f, " n{}", node + 1))?;
                write!(f, ", start after {down_ms} ms")
            }
            Self::Return { nodes, cut, for_ms } => {
                write!(f, "{} the region of", if *cut { "cut off" } else { "kill" })?;
                nodes.iter().try_for_each(|node| write!(f, " n{}", node + 1))?;
                write!(f, ", back after {for_ms} ms")
            }
            Self::Pairs { shapes, for_ms, calm_ms } => {
                f.write_str("cut")?;
                shapes.iter().try_for_each(|shape| write!(f, " {shape},"))?;
                write!(f, " in turn, for {for_ms} ms, {calm_ms} ms between them")
            }
            Self::Flaps { shape, beats } => {
                write!(f, "cut {shape} {} times in {} ms", beats.len(), self.lasts_ms())
            }
            Self::Apart { by_ms, for_ms } => {
                f.write_str("set the clocks")?;
                let mut nodes = by_ms.iter().enumerate();
                nodes.try_for_each(|(node, by_ms)| write!(f, " of n{} {by_ms:+} ms,", node + 1))?;
                write!(f, " for {for_ms} ms")
            }
            Self::Stretch { delay_ms, for_ms } => {
                write!(f, "all nodes {delay_ms} ms from each other for {for_ms} ms")
            }
            Self::Turns { leaves, regions, down_ms, calm_ms } => {
                if let Some(node) = leaves {
                    write!(f, "remove n{}; ", node + 1)?;
                }
                f.write_str("kill the regions of")?;
                let mut nodes = regions.iter().flatten();
                nodes.try_for_each(|node| write!(f, " n{}", node + 1))?;
                write!(f, " in turn, start after {down_ms} ms, {calm_ms} ms between them")
            }
            Self::Membership { changes, calm_ms } => {
                changes.iter().try_for_each(|change| write!(f, "{change}, "))?;
                write!(f, "{calm_ms} ms between them")
            }
        }
    }
}
