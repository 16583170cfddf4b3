# usage: sh warden.sh DIR, with a pipe from the lab's owner as standard input
#
# Ends a Slurm lab. The pipe closes when the owner drops the lab, and as surely when the owner dies, however it
# dies: so nothing of a lab outlives it. Processes are found by what they carry, never by name alone:
# - This lab's SLURM_CONF, together with the id of a job, the name of one of Slurm's own daemons, or that of srun, which
#   would wait for ever. (The owner's other clients carry SLURM_CONF too, and are left to the owner.)
# - The name of a job's manager, together with an open file in the lab's folder. Since 24.11 slurmstepd overwrites its
#   environment with its title; a daemon that executed itself anew is called slurmd-wlm or the like on Debian.
dir=${1:?}
trap '' HUP INT TERM
read -r _ || :

by_environment() {
    conf=SLURM_CONF=$dir
    for file in $(grep -slzxF -e "$conf/slurm.conf" -e "$conf/ctl.conf" -e "$conf/bad.conf" /proc/[0-9]*/environ); do
        pid=${file#/proc/} pid=${pid%/environ}
        case $(cat "/proc/$pid/comm") in
            slurmctld | slurmscriptd | slurmd | slurmstepd | munged | srun) echo "$pid" ;;
            *) if grep -qz '^SLURM_JOB_ID=' "$file"; then echo "$pid"; fi ;;
        esac
    done 2>/dev/null
}

by_open_file() {
    for file in $(grep -slxE 'slurmstepd|slurm[a-z]*-wlm' /proc/[0-9]*/comm); do
        pid=${file#/proc/} pid=${pid%/comm}
        if ls -l "/proc/$pid/fd" | grep -qF -e "-> $dir/"; then echo "$pid"; fi
    done 2>/dev/null
}

# A process found may have had a child in the meantime: look until there is none.
round=0
while pids=$(by_environment; by_open_file) && [ -n "$pids" ] && [ "$round" -lt 200 ]; do
    kill -KILL $pids 2>/dev/null
    round=$((round + 1))
    sleep 0.05
done
rm -rf "$dir"
