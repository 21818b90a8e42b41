//! The capabilities `kube-job` and `kube-volumes`.

use crate::context::{Context, GuestResult};
use jiff::Timestamp;
use kubernetes::follow::Ended;
use kubernetes::job::{Lent, OneShot};
use kubernetes::volumes::{self, Volumes};
use wasmtime::component::Resource;

pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        inline: "
            package host:kube;
            world kube {
                import backup:host/kube-job@0.2.0;
                import backup:host/kube-volumes@0.2.0;
            }",
        path: "../../wit",
        imports: { default: async | trappable },
        with: {
            "backup:host/types": crate::context::types,
            "backup:host/kube-job.template": kubernetes::job::OneShot,
            "backup:host/kube-job.secret": kubernetes::job::Lent,
            "backup:host/kube-job.run": super::Run,
            "backup:host/kube-volumes.cluster": kubernetes::volumes::Volumes,
        },
    });
}
use bindings::backup::host::{kube_job, kube_volumes};

/// A started Job that a plugin holds. The host removes the Job after the call in any case.
#[derive(Debug)]
pub struct Run(OneShot);

interfaces! {
    /// Links `kube-job`.
    link_job: kube_job { HostTemplate => OneShot, HostSecret => Lent }
    /// Links `kube-volumes`.
    link_volumes: kube_volumes { HostCluster => Volumes }
}

impl From<Ended> for kube_job::Ended {
    fn from(ended: Ended) -> Self {
        Self { job: ended.job, exit_code: ended.exit_code, reason: ended.reason }
    }
}

impl kube_job::Host for Context {
    async fn launch(
        &mut self,
        what: Resource<OneShot>,
        args: Vec<String>,
        secrets: Vec<(String, Resource<Lent>)>,
    ) -> GuestResult<Resource<Run>> {
        let job = self.table.get(&what)?.clone();
        let mut lent = Vec::new();
        for (place, secret) in secrets {
            lent.push((place, self.table.delete(secret)?));
        }
        self.count("kube-job.launch", job.scope(), 0, 0);
        match self.answer(job.launch(&args, &lent).await) {
            Ok(()) => Ok(Ok(self.table.push(Run(job))?)),
            Err(error) => Ok(Err(error)),
        }
    }

    async fn follow(&mut self, what: Resource<Run>) -> GuestResult<kube_job::Ended> {
        let Run(job) = self.table.delete(what)?;
        self.count("kube-job.follow", job.scope(), 0, 0);
        let ended = job.follow().await;
        Ok(self.answer(ended.map(kube_job::Ended::from)))
    }
}

impl kube_job::HostRun for Context {
    async fn drop(&mut self, run: Resource<Run>) -> wasmtime::Result<()> {
        let Run(job) = self.table.delete(run)?;
        job.remove().await;
        Ok(())
    }
}

impl kube_volumes::Host for Context {
    async fn claims(&mut self, of: Resource<Volumes>) -> GuestResult<Vec<kube_volumes::Claim>> {
        let volumes = self.count_volumes_call("kube-volumes.claims", &of)?;
        let claim = |claim: volumes::Claim| kube_volumes::Claim {
            namespace: claim.namespace,
            name: claim.name,
            phase: claim.phase,
            storage_class: claim.storage_class,
            volume: claim.volume,
            bytes: claim.bytes,
        };
        Ok(self.answer(volumes.claims().await.map(|found| found.into_iter().map(claim).collect())))
    }

    async fn volumes(&mut self, of: Resource<Volumes>) -> GuestResult<Vec<kube_volumes::Volume>> {
        let volumes = self.count_volumes_call("kube-volumes.volumes", &of)?;
        let volume = |volume: volumes::Volume| kube_volumes::Volume {
            name: volume.name,
            driver: volume.driver,
            handle: volume.handle,
        };
        Ok(self.answer(volumes.volumes().await.map(|found| found.into_iter().map(volume).collect())))
    }

    async fn longhorn_volumes(
        &mut self,
        of: Resource<Volumes>,
    ) -> GuestResult<Option<Vec<kube_volumes::LonghornVolume>>> {
        let volumes = self.count_volumes_call("kube-volumes.longhorn-volumes", &of)?;
        let found = volumes.longhorn_volumes().await.map(|found| {
            map_all(found, |volume| kube_volumes::LonghornVolume {
                name: volume.name,
                groups: volume.groups,
                jobs: volume.jobs,
                last_backup: volume.last_backup.map(Timestamp::as_second),
            })
        });
        Ok(self.answer(found))
    }

    async fn recurring_jobs(&mut self, of: Resource<Volumes>) -> GuestResult<Option<Vec<kube_volumes::RecurringJob>>> {
        let volumes = self.count_volumes_call("kube-volumes.recurring-jobs", &of)?;
        let found = volumes.recurring_jobs().await.map(|found| {
            map_all(found, |job| kube_volumes::RecurringJob {
                name: job.name,
                task: job.task,
                cron: job.cron,
                groups: job.groups,
            })
        });
        Ok(self.answer(found))
    }

    async fn longhorn_backups(
        &mut self,
        of: Resource<Volumes>,
    ) -> GuestResult<Option<Vec<kube_volumes::LonghornBackup>>> {
        let volumes = self.count_volumes_call("kube-volumes.longhorn-backups", &of)?;
        let found = volumes.backups().await.map(|found| {
            map_all(found, |backup| kube_volumes::LonghornBackup {
                volume: backup.volume,
                state: backup.state,
                created: backup.created.map(Timestamp::as_second),
            })
        });
        Ok(self.answer(found))
    }

    async fn volume_snapshots(
        &mut self,
        of: Resource<Volumes>,
    ) -> GuestResult<Option<Vec<kube_volumes::VolumeSnapshot>>> {
        let volumes = self.count_volumes_call("kube-volumes.volume-snapshots", &of)?;
        let found = volumes.snapshots().await.map(|found| {
            map_all(found, |snapshot| kube_volumes::VolumeSnapshot {
                namespace: snapshot.namespace,
                name: snapshot.name,
                claim: snapshot.claim,
                ready: snapshot.ready,
                created: snapshot.created.map(Timestamp::as_second),
            })
        });
        Ok(self.answer(found))
    }
}

impl Context {
    /// Counts a call of `kube-volumes` and returns the volumes behind its handle.
    fn count_volumes_call(&mut self, function: &'static str, of: &Resource<Volumes>) -> wasmtime::Result<Volumes> {
        let volumes = self.table.get(of)?.clone();
        self.count(function, &volumes.scope(), 0, 0);
        Ok(volumes)
    }
}

fn map_all<T, U>(found: Option<Vec<T>>, convert: impl Fn(T) -> U) -> Option<Vec<U>> {
    found.map(|found| found.into_iter().map(convert).collect())
}
