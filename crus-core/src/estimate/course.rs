//! How long steps wait for their nodes on a machine that goes on: see [the module above](super).

use std::collections::HashMap;

use crate::batch::{FreeAt, Order};
use crate::names::{Domain, Xname};
use crate::strategy::Strategy;
use crate::time::{Time, WlmTime};

/// So many nodes stand for all.
const POINTS_MAX: usize = 256;
/// So many steps are gone through one by one; where there are more, each stands for several.
const STEPS_MAX: usize = 400;
/// So many nodes are gone through at each step, in several courses.
const COURSES_POINTS: usize = 2048;
/// How long a job without a limit runs, as long as no other job tells.
const UNLIMITED_MS: u64 = 60 * 60_000;

/// A node, or several that are taken together.
#[derive(Debug, Clone, Copy, Default)]
struct Point {
    /// For how long it runs jobs by their limits, in milliseconds.
    limit: f64,
    /// For how long it really does.
    runs: f64,
    /// How many nodes it stands for.
    weight: f64,
}

/// What part of these nodes runs nothing now, in parts of a thousand.
pub(crate) fn idle_per_mille(left: &Left) -> u32 {
    let idle = left.iter().filter(|(_, free)| *free == FreeAt::Now).count();
    u32::try_from(idle * 1000 / left.len().max(1)).unwrap_or_default()
}

/// The nodes that are left to take, and when each is free.
pub(crate) type Left = [(Xname, FreeAt)];

/// How many nodes each of the next steps takes, the first of which takes so many.
pub(crate) fn sizes(
    left: &Left,
    first: usize,
    strategy: &Strategy,
    order: Order,
    full: usize,
    canaries: usize,
) -> Vec<usize> {
    let mut rest = left.len().saturating_sub(first);
    let mut sizes = vec![first];
    let canary =
        |passed: usize| strategy.canary.get(passed).and_then(|size| usize::try_from(size.get()).ok());
    // One that rules kept small says how large the next ones are.
    let may = canary(canaries).map_or(full, |size| size.min(full));
    let bound = if first > 0 && first < may { first } else { full };
    let mut passed = canaries + 1;
    while rest > 0 {
        let size = canary(passed).unwrap_or(full).min(bound).clamp(1, rest);
        passed += 1;
        rest -= size;
        sizes.push(size);
    }
    if let Some(cap) = strategy.domain_cap(order) {
        // The largest domain takes its time, however few nodes are left of the others.
        let mut domains = HashMap::<Xname, usize>::new();
        for (xname, _) in left {
            *domains.entry(xname.domain(strategy.domain)).or_default() += 1;
        }
        let least = domains.values().max().map_or(0, |count| count.div_ceil(cap.max(1)));
        if least > sizes.len() {
            let (rest, steps) = (left.len().saturating_sub(first), least - 1);
            sizes = vec![first];
            sizes.extend((0..steps).map(|i| rest * (i + 1) / steps - rest * i / steps));
        }
    }
    sizes
}

/// What decides how long steps wait for their nodes.
#[derive(Debug, Clone)]
pub(crate) struct Course {
    pub(crate) order: Order,
    pub(crate) domain: Domain,
    pub(crate) now: Time,
    /// How long a step takes from the request of its reboot to its end.
    pub(crate) boot_ms: u64,
    /// After which time a drain ends one way or the other.
    pub(crate) cap_ms: Option<u64>,
    /// What part of its limit a job runs.
    pub(crate) used: f64,
    /// What part of the nodes runs nothing while none is drained.
    pub(crate) idle: f64,
    /// What part of the nodes a step takes out of service.
    pub(crate) drained: f64,
}

/// How long each step is expected to wait for its nodes, in milliseconds: see the [module](self). The average over some
/// courses that things may take.
pub(crate) fn waits(left: &Left, sizes: &[usize], course: &Course) -> Vec<u64> {
    let points = points(left, course);
    // The fewer nodes and jobs there are, the more hangs on each.
    let courses = (COURSES_POINTS / points.len().max(1)).clamp(4, 32);
    let stride = sizes.len().div_ceil(STEPS_MAX).max(1);
    let mut sums = vec![0.0; sizes.len()];
    for seed in (1..).take(courses) {
        let mut model = Model::new(points.clone(), course, seed);
        for (several, sums) in sizes.chunks(stride).zip(sums.chunks_mut(stride)) {
            let count = several.len() as f64;
            let taken: f64 = several.iter().map(|size| *size as f64).sum();
            let wait = model.take(taken / count, taken);
            let wait = course.cap_ms.map_or(wait, |cap| wait.min(cap as f64));
            sums.iter_mut().for_each(|sum| *sum += wait);
            model.pass((wait + course.boot_ms as f64) * count);
        }
    }
    sums.into_iter().map(|sum| (sum / courses as f64) as u64).collect()
}

/// For how long a node runs jobs by their limits, in milliseconds; `None` for ever.
fn limit_ms(free: FreeAt, now: Time) -> Option<u64> {
    match free {
        FreeAt::Now => Some(0),
        FreeAt::By(end) => {
            let end = u64::try_from(end.0).unwrap_or_default().saturating_mul(1000);
            // A job that outlives its limit is about to end.
            Some(Time(end).since(now).max(1))
        }
        FreeAt::Unknown => None,
    }
}

/// For how long the last of these nodes runs jobs by their limits, as far as these are known, in milliseconds.
pub(super) fn longest_ms(free: impl Iterator<Item = FreeAt>, now: Time) -> u64 {
    free.filter_map(|free| limit_ms(free, now)).max().unwrap_or_default()
}

/// A machine that goes on while nodes are taken from it.
struct Model<'a> {
    course: &'a Course,
    points: Vec<Point>,
    /// What is left by the limits of the jobs that run now.
    limits: Vec<f64>,
    /// The longest of these.
    longest: f64,
    /// How long a node stays idle between two jobs.
    pause: f64,
    /// The state of its dice: the same course each time.
    dice: u64,
}

impl<'a> Model<'a> {
    fn new(points: Vec<Point>, course: &'a Course, seed: u64) -> Self {
        let limits: Vec<f64> = points.iter().map(|point| point.limit).filter(|limit| *limit > 0.0).collect();
        let mean = limits.iter().sum::<f64>() / (limits.len() as f64).max(1.0);
        // While some are drained, the others have their jobs to do.
        let idle = ((course.idle - course.drained) / (1.0 - course.drained).max(0.01)).clamp(0.0, 0.99);
        let pause = length_of(mean, course.used) * course.used * idle / (1.0 - idle);
        let longest = limits.iter().copied().fold(0.0, f64::max);
        let mut model = Model { course, points, limits, longest, pause, dice: seed };
        for i in 0..model.points.len() {
            let limit = model.points[i].limit;
            model.points[i].runs = model.runs(limit);
        }
        model
    }

    /// From 0 to below 1: SplitMix64.
    fn draw(&mut self) -> f64 {
        self.dice = self.dice.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.dice;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// For how long a job runs that has so much left by its limit, and has begun nobody knows when.
    fn runs(&mut self, limit: f64) -> f64 {
        let (used, passed) = (self.course.used, self.draw());
        if used >= 1.0 { limit } else { limit * used * (1.0 - passed) / (1.0 - used * passed) }
    }

    /// A step of so many nodes takes them; several like it take so many. Returns for how long the step waits.
    fn take(&mut self, size: f64, taken: f64) -> f64 {
        let all: f64 = self.points.iter().map(|point| point.weight).sum();
        if self.course.order == Order::Name {
            // Whatever runs on them: the longest of so many, as it is on average.
            self.points.sort_unstable_by(|one, two| one.runs.total_cmp(&two.runs));
            let parts = (0..8).map(|part| ((f64::from(part) + 0.5) / 8.0).powf(1.0 / size.max(1.0)));
            let wait = parts.map(|part| self.runs_of(all * part)).sum::<f64>() / 8.0;
            let kept = if all > taken { (all - taken) / all } else { 0.0 };
            self.points.iter_mut().for_each(|point| point.weight *= kept);
            return wait;
        }
        self.points.sort_unstable_by(|one, two| one.limit.total_cmp(&two.limit));
        let (mut of_step, mut rest, mut wait) = (size, taken, 0.0_f64);
        self.points.retain_mut(|point| {
            if of_step > 1e-6 {
                wait = wait.max(point.runs);
            }
            of_step -= point.weight;
            let some = point.weight.min(rest);
            rest -= some;
            point.weight -= some;
            point.weight > 1e-9
        });
        wait
    }

    /// For how long the last of the first so many nodes runs its jobs.
    fn runs_of(&self, nodes: f64) -> f64 {
        let mut sum = 0.0;
        let found = self.points.iter().find(|point| {
            sum += point.weight;
            sum >= nodes
        });
        found.map_or(0.0, |point| point.runs)
    }

    /// So much time passes.
    fn pass(&mut self, ms: f64) {
        for i in 0..self.points.len() {
            let Point { limit, runs, .. } = self.points[i];
            let (limit, runs) = if runs > ms { (limit - ms, runs - ms) } else { self.goes_on(ms - runs) };
            self.points[i].limit = limit;
            self.points[i].runs = runs;
        }
    }

    /// What runs on a node so long after it became idle: its limit, and how long it really runs.
    fn goes_on(&mut self, ms: f64) -> (f64, f64) {
        if self.limits.is_empty() {
            return (0.0, 0.0);
        }
        let mut passed = 0.0;
        for _ in 0..8 {
            passed -= self.pause * (1.0 - self.draw()).ln();
            if passed >= ms {
                return (0.0, 0.0);
            }
            let limit = length_of(self.any_limit(), self.course.used).min(self.longest);
            if passed + limit * self.course.used > ms {
                return (passed + limit - ms, passed + limit * self.course.used - ms);
            }
            passed += limit * self.course.used;
        }
        let limit = self.any_limit();
        (limit, self.runs(limit))
    }

    fn any_limit(&mut self) -> f64 {
        let place = (self.draw() * self.limits.len() as f64) as usize;
        self.limits.get(place).copied().unwrap_or_default()
    }
}

/// The whole limit of a job that has so much left, when it has run for half of its time.
fn length_of(left: f64, used: f64) -> f64 {
    left / (1.0 - used / 2.0)
}

/// Nodes, or domains that are taken whole. Where they are many, some stand for all.
fn points(left: &Left, course: &Course) -> Vec<Point> {
    // One without a limit is taken last: it stands with the longest.
    let longest = match longest_ms(left.iter().map(|(_, free)| *free), course.now) {
        0 => UNLIMITED_MS,
        longest => longest,
    };
    let limit = |free: FreeAt| limit_ms(free, course.now).unwrap_or(longest) as f64;
    let mut points = Vec::new();
    let mut together = HashMap::<Together, Point>::new();
    for (xname, free) in left {
        let limit = limit(*free);
        let key = match free {
            _ if course.order == Order::Pack => Together::Domain(xname.domain(course.domain)),
            // What ends at the same time is most often one job, and what comes after it another one.
            FreeAt::By(end) => Together::End(*end),
            FreeAt::Now | FreeAt::Unknown => {
                points.push(Point { limit, runs: 0.0, weight: 1.0 });
                continue;
            }
        };
        let whole = together.entry(key).or_default();
        whole.limit = whole.limit.max(limit);
        whole.weight += 1.0;
    }
    points.extend(together.into_values());
    points
        .sort_unstable_by(|one, two| one.limit.total_cmp(&two.limit).then(one.weight.total_cmp(&two.weight)));
    if points.len() <= POINTS_MAX {
        return points;
    }
    let weight = left.len() as f64 / POINTS_MAX as f64;
    let (mut some, mut sum) = (Vec::with_capacity(POINTS_MAX), 0.0);
    for point in points {
        sum += point.weight;
        while some.len() < POINTS_MAX && (some.len() as f64 + 0.5) * weight < sum {
            some.push(Point { limit: point.limit, runs: 0.0, weight });
        }
    }
    some
}

/// What makes nodes free at once.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Together {
    Domain(Xname),
    End(WlmTime),
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const NOW: Time = Time(1_000_000_000);

    fn course(order: Order) -> Course {
        Course {
            order,
            domain: Domain::Chassis,
            now: NOW,
            boot_ms: 10 * MINUTE,
            cap_ms: None,
            used: 1.0,
            idle: 0.0,
            drained: 0.1,
        }
    }

    fn place(n: usize) -> Xname {
        format!("x1c{}s{}b0n0", n / 20 % 8, n % 20).parse().unwrap()
    }

    /// Nodes that are free after so many minutes each.
    fn left(minutes: impl IntoIterator<Item = u64>) -> Vec<(Xname, FreeAt)> {
        let by = |minutes| FreeAt::By(WlmTime(i64::try_from(NOW.0 / 1000 + minutes * 60).unwrap()));
        (0..)
            .zip(minutes)
            .map(|(n, minutes)| (place(n), if minutes == 0 { FreeAt::Now } else { by(minutes) }))
            .collect()
    }

    #[test]
    fn nobody_waits_for_idle_nodes() {
        let idle = left([0; 30]);
        for order in [Order::SoonestFree, Order::Name, Order::Pack] {
            assert_eq!(waits(&idle, &[10, 10, 10], &course(order)), [0, 0, 0]);
        }
    }

    #[test]
    fn soonest_free_waits_little_at_first_and_for_the_longest_job_at_the_end() {
        let nodes = left((1..=100).map(|n| 100 * n));
        let sizes = [10; 10];
        let soonest = waits(&nodes, &sizes, &course(Order::SoonestFree));
        let by_name = waits(&nodes, &sizes, &course(Order::Name));
        assert_eq!(soonest[0], 1_000 * MINUTE, "the tenth to end");
        assert!(soonest.iter().sum::<u64>() < by_name.iter().sum::<u64>() / 2, "{soonest:?} {by_name:?}");
    }

    #[test]
    fn a_drain_that_is_given_up_takes_no_longer() {
        let nodes = left([600; 20]);
        let capped = Course { cap_ms: Some(5 * MINUTE), ..course(Order::SoonestFree) };
        assert_eq!(waits(&nodes, &[20], &capped), [5 * MINUTE]);
    }

    #[test]
    fn some_stand_for_many() {
        let few = left((0..200).map(|n| n * 7 % 100));
        let many = left((0..20_000).map(|n| n * 7 % 100));
        let of_few = waits(&few, &[20; 10], &course(Order::SoonestFree));
        let of_many = waits(&many, &[2_000; 10], &course(Order::SoonestFree));
        let sum = |waits: &[u64]| waits.iter().sum::<u64>();
        assert!(sum(&of_few).abs_diff(sum(&of_many)) < sum(&of_few) / 3, "{of_few:?} {of_many:?}");
        assert_eq!(waits(&many, &[1; 20_000], &course(Order::SoonestFree)).len(), 20_000);
    }

    #[test]
    fn steps_are_as_large_as_canaries_rules_and_domains_allow() {
        let nodes = left([0; 100]);
        let mut strategy =
            Strategy { canary: vec![1.try_into().unwrap(), 5.try_into().unwrap()], ..Strategy::default() };
        assert_eq!(sizes(&nodes, 1, &strategy, Order::SoonestFree, 40, 0), [1, 5, 40, 40, 14]);
        assert_eq!(sizes(&nodes, 5, &strategy, Order::SoonestFree, 40, 1), [5, 40, 40, 15]);
        strategy.canary.clear();
        assert_eq!(sizes(&nodes, 25, &strategy, Order::SoonestFree, 40, 0), [25; 4], "rules allow no more");
        strategy.max_per_domain = 2.try_into().ok();
        let bound = sizes(&nodes, 10, &strategy, Order::SoonestFree, 40, 0);
        assert_eq!(
            (bound.len(), bound.iter().sum::<usize>()),
            (10, 100),
            "five chassis of twenty nodes, two at a time"
        );
    }
}
