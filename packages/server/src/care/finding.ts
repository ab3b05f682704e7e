/** What the hand tools find, one blob or object at a time. */
export interface Finding {
  readonly kind:
    | 'damaged' // the row's object is missing or wrong: marked, unless it was before
    | 'healed' // a damaged row whose object is right
    | 'corrected' // the row had the wrong size
    | 'moved' // the row's object was gone, and another generation of it is there and right
    | 'unreadable' // the store failed: nothing is known, and nothing changed
    | 'erased' // an object that a takedown erases stood there again: deleted
    | 'rejected' // an object that no row knows, and that fails its digest: left where it is
    | 'stray'; // an object that no row means: left where it is
  /** The object's name. */
  readonly key: string;
  /** In a few words: the reason, or what of it was so before. */
  readonly note: string;
  /** Whether the catalog changed by it (in a dry run: would have). */
  readonly isNew: boolean;
}

/** Why an object counts as damaged. */
export type Damage = 'missing' | 'wrong bytes' | 'wrong length';
