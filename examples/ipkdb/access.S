/*
 * Reads or writes one byte of memory for a debugger, also at an invalid address. The trap's handler recognizes the two
 * instructions that may fault by their labels, and continues at ipkdb_access_failed after a fault.
 */
	.text
	.globl	ipkdb_load, ipkdb_load_at, ipkdb_store, ipkdb_store_at, ipkdb_access_failed

	/* int ipkdb_load(const uint8_t *): the byte, or -1 */
	.type	ipkdb_load, @function
ipkdb_load:
	movl	4(%esp), %edx
ipkdb_load_at:
	movzbl	(%edx), %eax
	ret
	.size	ipkdb_load, . - ipkdb_load

	/* int ipkdb_store(uint8_t *, int): 0, or -1 */
	.type	ipkdb_store, @function
ipkdb_store:
	movl	4(%esp), %edx
	movl	8(%esp), %ecx
	xorl	%eax, %eax
ipkdb_store_at:
	movb	%cl, (%edx)
	ret
	.size	ipkdb_store, . - ipkdb_store

ipkdb_access_failed:
	movl	$-1, %eax
	ret

	.section .note.GNU-stack, "", @progbits
