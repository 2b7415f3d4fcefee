//! The table: who is registered, who holds the reservation, and what orders make of that.

use crate::{
    Access, Current, Keep, Key, Kind, Notice, Notify, Order, Outcome, Persist, Refusal, Registrant,
};

/// Most registrants of a volume.
pub const REGISTRANTS_MAX: usize = 128;

/// The registrations and the reservation of one volume. See the [crate](crate).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Table {
    /// In the order of registration.
    pub(crate) registered: Vec<(Registrant, Key)>,
    pub(crate) held: Option<Held>,
    pub(crate) generation: u32,
    pub(crate) persists: bool,
    pub(crate) is_lost: bool,
    /// Who has reserved the whole unit for its session.
    pub(crate) unit: Option<Registrant>,
}

/// The reservation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) kind: Kind,
    /// `None`: every registrant.
    pub(crate) by: Option<Registrant>,
}

/// A registration, as it is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registration<'a> {
    /// Who.
    pub who: &'a Registrant,
    /// Its key.
    pub key: Key,
    /// Whether it holds the reservation, alone or with all others.
    pub is_holder: bool,
}

/// The reservation, as it is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation<'a> {
    /// Its type.
    pub kind: Kind,
    /// The holder's key; 0 if every registrant holds it.
    pub key: Key,
    /// The holder; `None` if every registrant is one.
    pub holder: Option<&'a Registrant>,
}

impl Table {
    /// A table that nobody has registered in, which does not persist.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The table of a volume whose durable record cannot be read: nobody may do anything until
    /// [`Order::ReplaceLost`].
    #[must_use]
    pub fn lost() -> Self {
        Self { is_lost: true, persists: true, ..Self::default() }
    }

    /// Does what `who` asks for, all of it or, with a refusal, nothing.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn apply(&mut self, who: &Registrant, order: &Order) -> Result<Outcome, Refusal> {
        if self.is_lost && !matches!(order, Order::ReplaceLost { .. }) {
            return Err(Refusal::Lost);
        }
        if self.unit.is_some() && !matches!(order, Order::ReserveUnit | Order::ReleaseUnit) {
            return Err(Refusal::Conflict);
        }
        let persisted = self.persists;
        let before = self.generation;
        let mut outcome = match order {
            Order::Register { current, key, also, persist } => {
                self.register(who, *current, *key, also, *persist)
            }
            Order::Unregister { current, persist } => self.unregister(who, *current, *persist),
            Order::Reserve { key, kind } => self.reserve(who, *key, *kind),
            Order::Preempt { key, victim, kind, abort } => {
                self.preempt(who, *key, *victim, *kind, *abort)
            }
            Order::Release { key, kind } => self.release(who, *key, *kind),
            Order::Clear { key } => self.clear(who, *key),
            Order::Move { key, new_key, to, unregister, persist } => {
                self.hand_over(who, *key, (to, *new_key), *unregister, *persist)
            }
            Order::ReplaceLost { key, kind } => self.replace_lost(who, *key, *kind),
            Order::SetPersist(persist) => {
                self.persists = *persist;
                Ok(Outcome::default())
            }
            Order::ReserveUnit => return self.reserve_unit(who),
            Order::ReleaseUnit => return self.release_unit(who),
        }?;
        outcome.keep = match (persisted, self.persists) {
            (true, true) if !outcome.changed && before == self.generation => Keep::Unchanged,
            (_, true) => Keep::Write,
            (true, false) => Keep::Delete,
            (false, false) => Keep::Unchanged,
        };
        self.check();
        Ok(outcome)
    }

    /// What a host may do, registered or not.
    #[must_use]
    pub fn access(&self, who: &Registrant) -> Access {
        if self.is_lost || self.unit.as_ref().is_some_and(|holder| holder != who) {
            return Access::NONE;
        }
        let Some(held) = &self.held else { return Access::ALL };
        let takes_part = match &held.by {
            Some(holder) => {
                holder == who || held.kind.includes_registrants() && self.key_of(who).is_some()
            }
            None => self.key_of(who).is_some(),
        };
        Access { read: takes_part || held.kind.lets_read(), write: takes_part }
    }

    /// What a host may do that is not registered.
    #[must_use]
    pub fn access_of_strangers(&self) -> Access {
        match &self.held {
            _ if self.is_lost || self.unit.is_some() => Access::NONE,
            Some(held) => Access { read: held.kind.lets_read(), write: false },
            None => Access::ALL,
        }
    }

    /// Counts registrations and what ended them: GEN, PRGENERATION.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether it is kept over a loss of power: PTPL state, PTPL_A.
    #[must_use]
    pub fn persists(&self) -> bool {
        self.persists
    }

    /// Whether its record could not be read.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Whether there is nothing in it that a new table does not have.
    #[must_use]
    pub fn is_new(&self) -> bool {
        *self == Self::default()
    }

    /// All registrations, oldest first.
    pub fn registrations(&self) -> impl ExactSizeIterator<Item = Registration<'_>> {
        self.registered.iter().map(|(who, key)| Registration {
            who,
            key: *key,
            is_holder: self.is_holder(who),
        })
    }

    /// The key with which somebody is registered.
    #[must_use]
    pub fn key_of(&self, who: &Registrant) -> Option<Key> {
        self.registered.iter().find(|(other, _)| other == who).map(|&(_, key)| key)
    }

    /// The reservation, if there is one.
    #[must_use]
    pub fn reservation(&self) -> Option<Reservation<'_>> {
        self.held.as_ref().map(|held| Reservation {
            kind: held.kind,
            key: held.by.as_ref().and_then(|holder| self.key_of(holder)).unwrap_or(0),
            holder: held.by.as_ref(),
        })
    }

    /// Who has reserved the whole unit by [`Order::ReserveUnit`].
    #[must_use]
    pub fn unit_holder(&self) -> Option<&Registrant> {
        self.unit.as_ref()
    }

    fn register(
        &mut self,
        who: &Registrant,
        current: Current,
        key: Key,
        also: &[Registrant],
        persist: Persist,
    ) -> Result<Outcome, Refusal> {
        let registered = self.key_of(who);
        let is_expected = match current {
            Current::None => registered.is_none(),
            Current::NoneOrSame => registered.is_none_or(|registered| registered == key),
            Current::Is(expected) => registered == Some(expected),
            Current::Any => true,
        };
        if !is_expected {
            return Err(Refusal::Conflict);
        }
        if key == 0 {
            return Err(Refusal::BadKey);
        }
        let is_taken =
            |other: &Registrant| !shares_port(who, other) && self.key_of(other).is_some();
        if also.iter().any(is_taken) {
            return Err(Refusal::Conflict);
        }
        let mut registrations = self.registered.clone();
        for one in core::iter::once(who).chain(also) {
            put(&mut registrations, one, key);
        }
        if registrations.len() > REGISTRANTS_MAX {
            return Err(Refusal::Full);
        }
        let changed = registrations != self.registered;
        self.registered = registrations;
        self.count();
        self.set_persist(persist);
        Ok(Outcome { changed, ..Outcome::default() })
    }

    fn unregister(
        &mut self,
        who: &Registrant,
        current: Current,
        persist: Persist,
    ) -> Result<Outcome, Refusal> {
        let registered = self.key_of(who);
        let is_expected = match current {
            Current::None => registered.is_none(),
            Current::Is(expected) => registered == Some(expected),
            Current::NoneOrSame | Current::Any => true,
        };
        if !is_expected {
            return Err(Refusal::Conflict);
        }
        let changed = registered.is_some();
        let notices = if changed { self.drop_registrant(who) } else { Vec::new() };
        self.count();
        self.set_persist(persist);
        Ok(Outcome { changed, notices, ..Outcome::default() })
    }

    fn reserve(&mut self, who: &Registrant, key: Key, kind: Kind) -> Result<Outcome, Refusal> {
        self.expect(who, key)?;
        let changed = match &self.held {
            Some(held) if held.kind == kind && self.is_holder(who) => false,
            Some(_) => return Err(Refusal::Conflict),
            None => true,
        };
        if changed {
            self.held = Some(Held::new(kind, who));
        }
        Ok(Outcome { changed, ..Outcome::default() })
    }

    fn preempt(
        &mut self,
        who: &Registrant,
        key: Key,
        victim: Key,
        kind: Kind,
        abort: bool,
    ) -> Result<Outcome, Refusal> {
        self.expect(who, key)?;
        let takes_over = match &self.held {
            Some(Held { by: None, .. }) => victim == 0,
            Some(Held { by: Some(holder), .. }) => self.key_of(holder) == Some(victim),
            None => false,
        };
        if victim == 0 && !takes_over {
            return Err(Refusal::BadKey);
        }
        let is_meant = |key: Key| victim == 0 || key == victim;
        if !self.registered.iter().any(|&(_, key)| is_meant(key)) {
            return Err(Refusal::Conflict);
        }
        let goes = |(other, key): &(Registrant, Key)| other != who && is_meant(*key);
        let removed: Vec<_> =
            self.registered.extract_if(.., |entry| goes(entry)).map(|(who, _)| who).collect();
        let mut notices: Vec<_> = notify(&removed, Notice::RegistrationPreempted);
        let mut changed = !removed.is_empty();
        if takes_over {
            let before = self.held.replace(Held::new(kind, who));
            changed |= before != self.held;
            if before.is_some_and(|before| before.kind != kind) {
                notices.extend(self.notify_others(who, Notice::ReservationReleased));
            }
        }
        self.count();
        let aborts = if abort { removed } else { Vec::new() };
        Ok(Outcome { changed, notices, aborts, ..Outcome::default() })
    }

    fn release(&mut self, who: &Registrant, key: Key, kind: Kind) -> Result<Outcome, Refusal> {
        self.expect(who, key)?;
        let Some(held) = self.held.as_ref().filter(|_| self.is_holder(who)) else {
            return Ok(Outcome::default());
        };
        if held.kind != kind {
            return Err(Refusal::WrongKind);
        }
        self.held = None;
        let notices = if kind.includes_registrants() {
            self.notify_others(who, Notice::ReservationReleased)
        } else {
            Vec::new()
        };
        Ok(Outcome { changed: true, notices, ..Outcome::default() })
    }

    fn clear(&mut self, who: &Registrant, key: Key) -> Result<Outcome, Refusal> {
        self.expect(who, key)?;
        let notices = self.notify_others(who, Notice::ReservationPreempted);
        self.registered.clear();
        self.held = None;
        self.count();
        Ok(Outcome { changed: true, notices, ..Outcome::default() })
    }

    fn hand_over(
        &mut self,
        who: &Registrant,
        key: Key,
        (to, new_key): (&Registrant, Key),
        unregister: bool,
        persist: Persist,
    ) -> Result<Outcome, Refusal> {
        self.expect(who, key)?;
        let Some(held) = &self.held else { return Err(Refusal::BadMove) };
        if held.by.as_ref() != Some(who) {
            return Err(Refusal::Conflict);
        }
        if new_key == 0 {
            return Err(Refusal::BadKey);
        }
        if to == who {
            return Err(Refusal::BadMove);
        }
        let leaves = usize::from(unregister);
        if self.key_of(to).is_none() && self.registered.len() - leaves == REGISTRANTS_MAX {
            return Err(Refusal::Full);
        }
        let kind = held.kind;
        put(&mut self.registered, to, new_key);
        self.held = Some(Held::new(kind, to));
        if unregister {
            self.registered.retain(|(other, _)| other != who);
        }
        self.count();
        self.set_persist(persist);
        Ok(Outcome { changed: true, ..Outcome::default() })
    }

    fn replace_lost(&mut self, who: &Registrant, key: Key, kind: Kind) -> Result<Outcome, Refusal> {
        if !self.is_lost {
            return Err(Refusal::NotLost);
        }
        if key == 0 {
            return Err(Refusal::BadKey);
        }
        self.is_lost = false;
        self.registered = vec![(who.clone(), key)];
        self.held = Some(Held::new(kind, who));
        self.count();
        Ok(Outcome { changed: true, ..Outcome::default() })
    }

    /// SPC-4, section 5.13.3: those who take part in a persistent reservation reserve the unit with
    /// success and without effect; nobody else does while there are registrants.
    fn reserve_unit(&mut self, who: &Registrant) -> Result<Outcome, Refusal> {
        if !self.registered.is_empty() {
            return self.is_spared(who).then(Outcome::default).ok_or(Refusal::Conflict);
        }
        if self.unit.as_ref().is_some_and(|holder| holder != who) {
            return Err(Refusal::Conflict);
        }
        let changed = self.unit.replace(who.clone()).is_none();
        Ok(Outcome { changed, ..Outcome::default() })
    }

    fn release_unit(&mut self, who: &Registrant) -> Result<Outcome, Refusal> {
        if !self.registered.is_empty() && !self.is_spared(who) {
            return Err(Refusal::Conflict);
        }
        let changed = self.unit.take_if(|holder| holder == who).is_some();
        Ok(Outcome { changed, ..Outcome::default() })
    }

    /// Whether somebody holds a reservation or has part in one as a registrant.
    fn is_spared(&self, who: &Registrant) -> bool {
        self.held.is_some() && self.access(who).write
    }

    fn is_holder(&self, who: &Registrant) -> bool {
        match &self.held {
            Some(Held { by: Some(holder), .. }) => holder == who,
            Some(Held { by: None, .. }) => self.key_of(who).is_some(),
            None => false,
        }
    }

    /// That `who` is registered with this key.
    fn expect(&self, who: &Registrant, key: Key) -> Result<(), Refusal> {
        if self.key_of(who) == Some(key) { Ok(()) } else { Err(Refusal::Conflict) }
    }

    /// Takes out a registrant, and with a holder the reservation: whom that is to be told.
    fn drop_registrant(&mut self, who: &Registrant) -> Vec<Notify> {
        let was_sole = self.held.as_ref().is_some_and(|held| held.by.as_ref() == Some(who));
        self.registered.retain(|(other, _)| other != who);
        if !was_sole && !self.registered.is_empty() {
            return Vec::new();
        }
        let held = self.held.take();
        if held.is_some_and(|held| held.kind.includes_registrants()) {
            return self.notify_others(who, Notice::ReservationReleased);
        }
        Vec::new()
    }

    fn notify_others(&self, who: &Registrant, what: Notice) -> Vec<Notify> {
        let others = self.registered.iter().map(|(other, _)| other).filter(|other| *other != who);
        notify(others, what)
    }

    fn count(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    fn set_persist(&mut self, persist: Persist) {
        match persist {
            Persist::Unchanged => {}
            Persist::Off => self.persists = false,
            Persist::On => self.persists = true,
        }
    }

    /// The invariants of the [crate](crate).
    fn check(&self) {
        assert!(self.registered.len() <= REGISTRANTS_MAX);
        match &self.held {
            Some(Held { by: Some(holder), kind }) => {
                assert!(self.key_of(holder).is_some() && !kind.is_all_registrants());
            }
            Some(Held { by: None, kind }) => {
                assert!(!self.registered.is_empty() && kind.is_all_registrants());
            }
            None => {}
        }
    }
}

impl Held {
    fn new(kind: Kind, who: &Registrant) -> Self {
        Self { kind, by: (!kind.is_all_registrants()).then(|| who.clone()) }
    }
}

/// Sets a key, behind all others if it is a new registration.
fn put(registrations: &mut Vec<(Registrant, Key)>, who: &Registrant, key: Key) {
    match registrations.iter_mut().find(|(other, _)| other == who) {
        Some((_, registered)) => *registered = key,
        None => registrations.push((who.clone(), key)),
    }
}

fn notify<'a>(to: impl IntoIterator<Item = &'a Registrant>, what: Notice) -> Vec<Notify> {
    to.into_iter().map(|who| Notify { who: who.clone(), what }).collect()
}

fn shares_port(one: &Registrant, other: &Registrant) -> bool {
    match (one, other) {
        (Registrant::Scsi(one), Registrant::Scsi(other)) => one.is_same_initiator_port(other),
        _ => one == other,
    }
}
