# usage: sh warden.sh DIR, with a pipe from the lab's owner as standard input
#
# Ends a Slurm lab. The pipe closes when the owner drops the lab, and as surely when the owner dies, however it
# dies: so nothing of a lab outlives it. Processes are found by what they carry, never by name alone: this lab's
# SLURM_CONF, together with the id of a job or the name of one of Slurm's own daemons (the owner's clients carry
# SLURM_CONF too, and are left to the owner).
dir=${1:?}
trap '' HUP INT TERM
read -r _ || :

ours() {
    for file in $(grep -slzxF "SLURM_CONF=$dir/slurm.conf" /proc/[0-9]*/environ); do
        pid=${file#/proc/} pid=${pid%/environ}
        case $(cat "/proc/$pid/comm") in
            slurmctld | slurmscriptd | slurmd | slurmstepd | munged) echo "$pid" ;;
            *) if grep -qz '^SLURM_JOB_ID=' "$file"; then echo "$pid"; fi ;;
        esac
    done 2>/dev/null
}

# A process found may have had a child in the meantime: look until there is none.
round=0
while pids=$(ours) && [ -n "$pids" ] && [ "$round" -lt 200 ]; do
    kill -KILL $pids 2>/dev/null
    round=$((round + 1))
    sleep 0.05
done
rm -rf "$dir"
