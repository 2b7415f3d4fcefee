//! Numbered places for things in flight, reused without allocation.

use std::ops::{Index, IndexMut};

#[derive(Debug)]
pub(super) struct Places<T> {
    places: Vec<Option<T>>,
    vacant: Vec<u32>,
}

impl<T> Places<T> {
    pub(super) fn with_capacity(count: usize) -> Self {
        Self { places: Vec::with_capacity(count), vacant: Vec::with_capacity(count) }
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(at) = self.vacant.pop() {
            self.places[at as usize] = Some(value);
            return at;
        }
        self.places.push(Some(value));
        self.places.len() as u32 - 1
    }

    pub(super) fn remove(&mut self, at: u32) -> T {
        self.vacant.push(at);
        self.places[at as usize].take().expect("the place is taken")
    }

    pub(super) fn len(&self) -> usize {
        self.places.len() - self.vacant.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places.iter().flatten()
    }
}

impl<T> Index<u32> for Places<T> {
    type Output = T;
    fn index(&self, at: u32) -> &T {
        self.places[at as usize].as_ref().expect("the place is taken")
    }
}

impl<T> IndexMut<u32> for Places<T> {
    fn index_mut(&mut self, at: u32) -> &mut T {
        self.places[at as usize].as_mut().expect("the place is taken")
    }
}
