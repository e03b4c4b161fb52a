/** What a colour says beside the words of a state. */
export type Tone = 'neutral' | 'info' | 'success' | 'warning' | 'danger';
