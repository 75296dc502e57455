# Commands for Linux kernels, in GDB's own language: no Python, nothing newer than GDB 7.3. They only read kernel memory,
# so they work with every stub and on a dump. They need the kernel's symbols, vmlinux.

define linux-ps
  # The list links the field `tasks` of each task.
  set $lx_field = (unsigned long) &((struct task_struct *) 0)->tasks
  set $lx_task = &init_task
  set $lx_more = 1
  printf "  PID  PPID KIND   COMMAND\n"
  while $lx_more
    printf "%5d %5d ", $lx_task->pid, $lx_task->real_parent->tgid
    # PF_KTHREAD
    if ($lx_task->flags & 0x00200000) != 0
      printf "kernel "
    else
      printf "user   "
    end
    printf "%s\n", &$lx_task->comm[0]
    set $lx_task = (struct task_struct *) ((unsigned long) $lx_task->tasks.next - $lx_field)
    if $lx_task == &init_task
      set $lx_more = 0
    end
  end
end
document linux-ps
List the kernel's processes: number, parent, kernel thread or user process, command.
end

define linux-dmesg
  # Each message has a descriptor, an information and, unless it is empty, a block in a ring of data. A block begins with
  # a word that has its descriptor's number; if it would cross the end of the ring, it is at the ring's beginning.
  set $lx_descs = 1UL << prb->desc_ring.count_bits
  set $lx_bytes = 1UL << prb->text_data_ring.size_bits
  set $lx_bits = 8 * sizeof(long) - 2
  set $lx_id = (unsigned long) prb->desc_ring.tail_id.counter
  set $lx_head = (unsigned long) prb->desc_ring.head_id.counter
  set $lx_more = 1
  while $lx_more
    set $lx_at = $lx_id & ($lx_descs - 1)
    set $lx_desc = &prb->desc_ring.descs[$lx_at]
    set $lx_state = ((unsigned long) $lx_desc->state_var.counter >> $lx_bits) & 3
    # 1: committed; 2: finalized.
    if $lx_state == 1 || $lx_state == 2
      set $lx_info = &prb->desc_ring.infos[$lx_at]
      set $lx_size = $lx_info->text_len
      set $lx_begin = $lx_desc->text_blk_lpos.begin & ($lx_bytes - 1)
      set $lx_end = $lx_desc->text_blk_lpos.next & ($lx_bytes - 1)
      if ($lx_desc->text_blk_lpos.begin & 1) != 0
        set $lx_size = 0
      else
        if $lx_end != 0 && $lx_begin > $lx_end
          set $lx_begin = 0
        end
      end
      set $lx_time = $lx_info->ts_nsec / 1000
      printf "[%5lu.%06lu] ", (unsigned long) ($lx_time / 1000000), (unsigned long) ($lx_time % 1000000)
      set $lx_text = (unsigned long) prb->text_data_ring.data + $lx_begin + sizeof(long)
      eval "printf \"%%.%ds\\n\", (char *) %#lx", (int) $lx_size, $lx_text
    end
    if $lx_id == $lx_head
      set $lx_more = 0
    end
    set $lx_id = ($lx_id + 1) & ((1UL << $lx_bits) - 1)
  end
end
document linux-dmesg
Print the kernel's messages, as dmesg(1) does. For Linux 5.10 and later.
end
