//! The exports of the world's pools, and their destinations.
//!
//! A record reaches its destination when it is written, with the time from which the destination shows it. So an export
//! needs no task of its own, and a test that moves the clock sees what the time brings.

use cognito_auth_core::event::AuthEvent;
use fastrand::Rng;

use super::{SimulatedPool, World};
use crate::export::{ExportSettings, ExportedUser, Occasion, PoolExport, SentRecord};
use crate::firehose::FirehoseStream;
use crate::logs::{LogEvent, SimulatedLogGroup};
use crate::seeds::random_for;

impl World {
    /// Has a pool export its events from now on, and the changes of earlier events. Creates the log group that the
    /// settings name, if it does not exist.
    /// Replaces the pool's export, with what is known of it. [`SimulatedPool::export_mut`] changes settings.
    ///
    /// # Panics
    /// When the pool does not exist.
    #[track_caller]
    pub fn export_events(&mut self, pool: &str, settings: ExportSettings) {
        let random = random_for(self.seed, pool);
        let found = self.pool_mut(pool);
        let group =
            settings.log_group.as_ref().map(|name| (name.clone(), found.region.clone(), found.account_id.clone()));
        found.export = Some(PoolExport::new(settings, random));
        if let Some((name, region, account)) = group {
            let group = SimulatedLogGroup::new(&name, &region, &account);
            if !self.log_groups.contains_key(&group.arn()) {
                self.add_log_group(group);
            }
        }
    }

    /// Has a pool send any text as a record of its export, such as one that is unreadable.
    ///
    /// # Panics
    /// When the pool does not exist or has no export.
    #[track_caller]
    pub fn export_text(&mut self, pool: &str, text: &str) {
        let now = self.now();
        let Some(export) = self.pool_mut(pool).export_mut() else {
            panic!("the pool {pool} of the simulation has no export");
        };
        let record = export.record_of_text(text, now);
        self.send(pool, &record);
    }

    /// The export of a pool: what it has sent and lost.
    ///
    /// # Panics
    /// When the pool does not exist or has no export.
    #[track_caller]
    pub fn exported(&self, pool: &str) -> &PoolExport {
        match self.pool(pool).and_then(SimulatedPool::export) {
            Some(export) => export,
            None => panic!("the simulation has no export of a pool {pool}"),
        }
    }

    /// Adds a log group. It replaces one with the same ARN.
    pub fn add_log_group(&mut self, mut group: SimulatedLogGroup) -> &mut SimulatedLogGroup {
        group.seed(self.seed);
        let arn = group.arn();
        self.log_groups.insert(arn.clone(), group);
        self.log_group_mut(&arn)
    }

    /// Removes a log group with its log events. Later records to it are lost.
    pub fn remove_log_group(&mut self, name_or_arn: &str) {
        self.log_groups.retain(|arn, group| arn != name_or_arn && group.name != name_or_arn);
    }

    /// The log group with this name or ARN, to change it.
    ///
    /// # Panics
    /// When the log group does not exist.
    #[track_caller]
    pub fn log_group_mut(&mut self, name_or_arn: &str) -> &mut SimulatedLogGroup {
        match self.log_groups.values_mut().find(|group| is_named(group, name_or_arn)) {
            Some(group) => group,
            None => panic!("the simulation has no log group {name_or_arn}"),
        }
    }

    /// The log events of a log group that clients see now, oldest first.
    ///
    /// # Panics
    /// When the log group does not exist.
    #[track_caller]
    pub fn log_events(&self, name_or_arn: &str) -> Vec<&LogEvent> {
        match self.log_groups.values().find(|group| is_named(group, name_or_arn)) {
            Some(group) => group.visible(self.now()).collect(),
            None => panic!("the simulation has no log group {name_or_arn}"),
        }
    }

    /// Adds a Firehose stream. It replaces one with the same name. [`crate::Simulation::deliver_firehose`] starts its
    /// deliveries.
    pub fn add_firehose(&mut self, mut stream: FirehoseStream) {
        stream.seed(self.seed);
        self.streams.insert(stream.name().to_owned(), stream);
    }

    /// Removes a Firehose stream with its records. Later records to it are lost.
    pub fn remove_firehose(&mut self, name: &str) {
        self.streams.remove(name);
    }

    /// The Firehose stream with this name: its requests, and what it has delivered or lost.
    ///
    /// # Panics
    /// When the stream does not exist.
    #[track_caller]
    pub fn firehose(&self, name: &str) -> &FirehoseStream {
        match self.streams.get(name) {
            Some(stream) => stream,
            None => panic!("the simulation has no Firehose stream {name}"),
        }
    }

    /// The Firehose stream with this name, to change its settings.
    ///
    /// # Panics
    /// When the stream does not exist.
    #[track_caller]
    pub fn firehose_mut(&mut self, name: &str) -> &mut FirehoseStream {
        match self.streams.get_mut(name) {
            Some(stream) => stream,
            None => panic!("the simulation has no Firehose stream {name}"),
        }
    }

    /// The Firehose stream with this name, if it exists.
    pub(crate) fn find_firehose(&mut self, name: &str) -> Option<&mut FirehoseStream> {
        self.streams.get_mut(name)
    }

    /// The log group that a call names: one of the caller's region, and by its name only one of the caller's account.
    pub(crate) fn find_log_group(
        &self,
        name_or_arn: &str,
        region: Option<&str>,
        account: Option<&str>,
    ) -> Option<&SimulatedLogGroup> {
        self.log_groups.values().find(|group| is_meant(group, name_or_arn, region, account))
    }

    /// Borrows together what a page of log events needs: the log group, and the random numbers.
    pub(crate) fn log_group_parts(
        &mut self,
        name_or_arn: &str,
        region: Option<&str>,
        account: Option<&str>,
    ) -> Option<(&mut SimulatedLogGroup, &mut Rng)> {
        let group = self.log_groups.values_mut().find(|group| is_meant(group, name_or_arn, region, account))?;
        Some((group, &mut self.random))
    }

    /// Exports an event that has happened or changed, if the pool has an export.
    pub(super) fn export(&mut self, pool_id: &str, name: &str, event: &AuthEvent, occasion: Occasion) {
        let now = self.now();
        let pool = self.pools.get(pool_id).filter(|pool| pool.keeps_events());
        let Some((pool, export)) = pool.and_then(|pool| Some((pool, pool.export()?))) else {
            return;
        };
        let has_destination = self.has_destination(pool, &export.settings);
        let pool = self.pool_mut(pool_id);
        let user = pool.user(name).map(|user| (user.username.clone(), user.sub.clone()));
        let (Some((username, sub)), Some(export)) = (user, &mut pool.export) else {
            return;
        };
        if !has_destination {
            if let (Occasion::New, Some(id)) = (occasion, &event.id) {
                export.lose(id);
            }
            return;
        }
        let user = ExportedUser { pool_id, username: &username, sub: &sub };
        for record in export.records_of(user, event, occasion, now) {
            self.send(pool_id, &record);
        }
    }

    /// Whether a destination of the pool's export exists.
    fn has_destination(&self, pool: &SimulatedPool, settings: &ExportSettings) -> bool {
        let has_group = settings
            .log_group
            .as_ref()
            .is_some_and(|name| self.find_log_group(name, Some(&pool.region), Some(&pool.account_id)).is_some());
        has_group || settings.firehose.as_ref().is_some_and(|name| self.streams.contains_key(name))
    }

    /// Hands a record to the destinations of the pool's export.
    fn send(&mut self, pool_id: &str, record: &SentRecord) {
        let Some(pool) = self.pools.get(pool_id) else {
            return;
        };
        let settings = pool.export().map(|export| &export.settings);
        let (region, account) = (Some(pool.region.as_str()), Some(pool.account_id.as_str()));
        if let Some(name) = settings.and_then(|settings| settings.log_group.as_deref()) {
            let group = self.log_groups.values_mut().find(|group| is_meant(group, name, region, account));
            if let Some(group) = group {
                group.put(LogEvent {
                    timestamp: record.timestamp,
                    ingested: record.ingested,
                    stream: format!("cognito/{pool_id}"),
                    message: record.json.clone(),
                });
            }
        }
        if let Some(stream) =
            settings.and_then(|settings| settings.firehose.as_ref()).and_then(|name| self.streams.get_mut(name))
        {
            stream.put(record.sent, record.json.clone());
        }
    }
}

fn is_named(group: &SimulatedLogGroup, name_or_arn: &str) -> bool {
    group.name == name_or_arn || group.arn() == name_or_arn
}

fn is_meant(group: &SimulatedLogGroup, name_or_arn: &str, region: Option<&str>, account: Option<&str>) -> bool {
    let is_of_account = account.is_none_or(|account| account == group.account_id);
    region.is_none_or(|region| region == group.region)
        && (group.arn() == name_or_arn || group.name == name_or_arn && is_of_account)
}
