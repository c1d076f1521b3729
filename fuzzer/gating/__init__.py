"""The gate: did this change break a kernel? What changed, cases aimed at it, head and base asked, and what that is worth."""
