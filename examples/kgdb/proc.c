#include "kernel.h"

static struct proc procs[] = {
	{.p_pid = 0, .p_nlwps = 2, .p_comm = "system"},
	{.p_pid = 1, .p_nlwps = 1, .p_comm = "init"},
	{.p_pid = 27, .p_nlwps = 1, .p_comm = "syslogd"},
	{.p_pid = 42, .p_nlwps = 1, .p_comm = "getty"},
};
#define PROCS (sizeof(procs) / sizeof(procs[0]))

struct proclist allproc;
struct proc *curproc = &procs[0];

/* Each new process becomes the head of the list, as in NetBSD. */
void proc_init(void)
{
	for (unsigned int index = 0; index < PROCS; index++) {
		struct proc *process = &procs[index];

		process->p_stat = SACTIVE;
		process->p_pptr = index == 0 ? NULL : &procs[index > 1];
		process->p_list.le_next = allproc.lh_first;
		process->p_list.le_prev = &allproc.lh_first;
		if (allproc.lh_first)
			allproc.lh_first->p_list.le_prev = &process->p_list.le_next;
		allproc.lh_first = process;
	}
}

void proc_print(void)
{
	printf("PID PPID TICKS COMMAND\n");
	for (const struct proc *process = allproc.lh_first; process; process = process->p_list.le_next)
		printf("%d %d %u %s\n", process->p_pid, process->p_pptr ? process->p_pptr->p_pid : 0,
		       process->p_cpticks, process->p_comm);
}

struct proc *proc_tick(void)
{
	curproc = curproc->p_list.le_next;
	if (curproc == NULL)
		curproc = allproc.lh_first;
	curproc->p_cpticks++;
	return curproc;
}
